# SPDX-License-Identifier: MIT
"""mailseal-deliver with the daemon: mails are not split, and do not bounce by accident."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.delivery.lmtp.syntax import Reply
from mailseal.delivery.pipe import _READ, exit_status
from tests.delivery.daemon import Daemon
from tests.lab.place import REPOSITORY

HOOK = os.path.join(REPOSITORY, "hooks", "mailseal-deliver")
HEAD = b"Subject: t\n\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        running.enroll("alice@example.org")
        running.enroll("a b@example.org")
        yield running


@pytest.fixture(autouse=True)
def empty(daemon: Daemon) -> None:
    for old in daemon.everything_delivered():
        os.unlink(old)


def deliver(
    daemon: Daemon, mail: bytes, *options: str | bytes, to: str = "alice@example.org"
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [HOOK, "-c", daemon.config, *options, to], input=mail, capture_output=True, timeout=60
    )


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_a_dot_between_two_pieces(daemon: Daemon, shift: int) -> None:
    """A piece ends with a line, and the next line is a dot, followed by commands."""
    filler = b"x" * (_READ - len(HEAD) - 1 + shift) + b"\n"
    tail = b".\nMAIL FROM:<a@b>\nRCPT TO:<alice@example.org>\nDATA\nsmuggled\n.\n..two\n.end\n"
    done = deliver(daemon, HEAD + filler + tail, "-f", "s@example.com")
    assert done.returncode == 0, done.stdout
    (stored,) = daemon.mails("alice@example.org")
    assert stored.endswith(HEAD + filler + tail)


@pytest.mark.parametrize("sender", [b"s\xff@example.com", b"x" * 4000 + b"@b"])
def test_an_invalid_sender_defers(daemon: Daemon, sender: bytes) -> None:
    done = deliver(daemon, HEAD, "-f", sender)
    assert (done.returncode, done.stdout[:5]) == (75, b"4.3.5")


@pytest.mark.parametrize(
    ("given", "logged"), [("4Abc9", "4Abc9"), (b"a b=\xff+", "a?b???"), ("x" * 300, "x" * 64)]
)
def test_the_queue_id_reaches_the_daemons_log(
    daemon: Daemon, given: str | bytes, logged: str
) -> None:
    assert deliver(daemon, HEAD, "-q", given).returncode == 0
    assert f" {logged}: to=<alice@example.org>, action=sealed" in daemon.log_text()


def test_addresses_without_their_quotes(daemon: Daemon) -> None:
    """As pipe(8) passes them without flags=q."""
    done = deliver(daemon, HEAD, "-f", "c d@example.com", to="a b@example.org")
    assert done.returncode == 0, done.stdout
    (stored,) = daemon.mails("a b@example.org")
    assert stored.startswith(b'Return-Path: <"c d"@example.com>\n')


def test_a_silent_daemon_times_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "lmtp"))
        silent.listen()
        config = tmp_path / "mailseal.yaml"
        config.write_text(f"delivery: {{deadline: 1s, deliver_socket: {tmp_path}/lmtp}}\n")
        done = subprocess.run(
            [HOOK, "-c", config, "x@example.org"], input=HEAD, capture_output=True, timeout=60
        )
    assert (done.returncode, done.stdout) == (75, b"4.4.7 delivery took too long")


@pytest.mark.parametrize(
    ("code", "enhanced", "status"),
    [
        (250, "2.0.0", 0),
        (550, "5.1.1", 67),
        (501, "5.1.3", 67),
        (552, "5.3.4", 65),
        (552, "5.2.2", 77),
        (550, "5.7.1", 77),
        (451, "4.3.0", 75),
        (452, "4.2.2", 75),
        (421, "4.3.2", 75),
        (354, "", 75),
        (600, "5.1.1", 75),
    ],
)
def test_exit_statuses_have_the_right_meaning_for_pipe(
    code: int, enhanced: str, status: int
) -> None:
    assert exit_status(Reply(code, enhanced, "")) == status


@pytest.mark.parametrize("redirection", [">&-", "| true"])
def test_its_standard_output_may_be_closed(daemon: Daemon, redirection: str) -> None:
    command = f"{{ sleep 0.2; {HOOK} -c /nowhere.yaml x@example.org; echo $? >&3; }} {redirection}"
    read, write = os.pipe()
    subprocess.run(
        ["/bin/bash", "-c", f"exec 3>&{write}; {command}"],
        input=HEAD,
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
    os.close(write)
    with open(read, "rb") as status:
        assert status.read() == b"75\n"
