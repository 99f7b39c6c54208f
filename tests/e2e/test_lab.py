# SPDX-License-Identifier: MIT
"""The lab: output of `make lab`; it leaves nothing and changes nothing on the machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.mails import HEADERS
from tests.lab import ALICE, Imap, Lab
from tests.lab.place import REPOSITORY, Place
from tests.lab.postfix import page_commands
from tests.lab.process import Server, members, wait_until
from tests.lab.smtp import send

MAIL = HEADERS + b"kept\r\n"


@contextlib.contextmanager
def running_lab(**environ: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """Start `make lab` without make and read its line; it is stopped at the latest here."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.lab"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": "lib:.", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert process.stderr
        assert line, process.stderr.read().decode()
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(120)


def mentions(*names: str) -> list[str]:
    """The processes whose command line, directory or open files contain a folder of the lab."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            links = [f"/proc/{pid}/cwd", *(f.path for f in os.scandir(f"/proc/{pid}/fd"))]
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                text = stream.read().decode(errors="replace")
            text += " ".join(os.readlink(link) for link in links if os.path.islink(link))
            if any(name in text for name in names):
                found.append(f"{pid}: {text[:200]}")
    return found


def quick_folder(config: str) -> str:
    with open(config, encoding="utf-8") as stream:
        return next(
            line.split(":")[1].strip().rpartition("/")[0]
            for line in stream
            if line.strip().startswith("socket:")
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_prints_one_line_and_a_signal_ends_everything(number: signal.Signals) -> None:
    with running_lab(LAB_USERS="2") as (process, told):
        assert sorted(told) == sorted(
            ["smtp", "lmtp", "imap", "pop3", "dir", "config", "users", "dovecot"]
        )
        assert list(told["users"]) == [ALICE, "bob@example.org"]
        quick = quick_folder(told["config"])
        assert os.path.dirname(told["config"]) == told["dir"]
        send(tuple(told["smtp"]), "eve@example.net", [ALICE], MAIL)
        with Imap(tuple(told["imap"]), ALICE, told["users"][ALICE]) as imap:
            wait_until(imap.select, "the mail is there")
            assert imap.bodies()[0].endswith(b"kept\r\n")
        assert mentions(told["dir"], quick)
        process.send_signal(number)
        assert process.wait(120) == 0
        assert process.stdout
        assert process.stderr
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")
    assert not os.path.exists(told["dir"])
    assert not os.path.exists(quick)
    assert mentions(told["dir"], quick) == []


def test_a_signal_while_it_starts_leaves_nothing() -> None:
    for delay in (0.1, 0.3, 0.5, 0.8):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab"],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": "lib:."},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.terminate()
        process.wait(120)
        # Other labs of this machine may start at the same time; the names have the process id.
        marks = (f"mailseal-lab-{process.pid}-", f"mailseal-{process.pid}-")
        names = [*os.listdir("/tmp"), *os.listdir("/dev/shm")]
        assert not [name for name in names if name.startswith(marks)]
        assert mentions(*marks) == []


def test_a_given_folder_is_kept_and_used_again() -> None:
    # Not below pytest's folder, which the servers' users cannot enter.
    place = Place.make()
    place.remove()
    folder = place.dir
    try:
        with running_lab(LAB_DIR=folder) as (_, told):
            assert told["dir"] == folder
            send(tuple(told["smtp"]), "eve@example.net", [ALICE], MAIL)
            with Imap(tuple(told["imap"]), ALICE, told["users"][ALICE]) as imap:
                wait_until(imap.select, "the mail is there")
        assert os.path.isdir(f"{folder}/mail/example.org/alice/Maildir")
        with running_lab(LAB_DIR=folder) as (_, again):
            assert again["users"] == told["users"]
            with Imap(tuple(again["imap"]), ALICE, told["users"][ALICE]) as imap:
                assert imap.bodies()[0].endswith(b"kept\r\n")
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


def test_the_folder_of_a_killed_lab_is_used_again() -> None:
    folder = tempfile.mkdtemp(prefix="mailseal-died-", dir="/tmp")
    os.chmod(folder, 0o711)
    try:
        died = Lab({ALICE: "first"}, directory=folder)
        died.place.remove()
        users = Place.remembered(folder)
        assert users == {ALICE: "first"}
        with Lab(users, directory=folder) as lab, lab.login():
            pass
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LAB_USERS": "none"}, "LAB_USERS=none is no number of users"),
        ({"LAB_USERS": "0"}, "LAB_USERS=0 is no number of users"),
        ({"LAB_DIR": "/etc"}, "/etc is not empty and no lab"),
        ({"LAB_DIR": "/tmp/a b"}, "the folder's name holds characters"),
    ],
)
def test_wrong_options(environ: dict[str, str], expected: str) -> None:
    _refused(expected, environ)


def test_not_root() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # other users may not be able to read the checkout
        for name in ("lib", "tests"):
            shutil.copytree(
                os.path.join(REPOSITORY, name),
                os.path.join(folder, name),
                # Another test run may write them just now.
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        expected = "the lab must run as root"
        _refused(expected, {}, cwd=folder, user=65534, group=65534, extra_groups=[])


def _refused(
    expected: str, environ: dict[str, str], *, cwd: str = REPOSITORY, **options: Any
) -> None:
    done = subprocess.run(
        ["/usr/bin/python3", "-m", "tests.lab"],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "lib:.", "PYTHONDONTWRITEBYTECODE": "1"}
        | environ,
        capture_output=True,
        text=True,
        **options,
    )
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert lines[0].startswith(f"mailseal: error: {expected}")
    assert [line[:16] for line in lines[1:]] == ["mailseal: hint: "]


def test_the_machines_configuration_is_not_changed(lab: Lab) -> None:
    before = _fingerprint("/etc/postfix", "/etc/dovecot", "/var/spool/postfix", "/var/lib/postfix")
    with Lab() as other:
        send(other.smtp, "eve@example.net", [ALICE], MAIL)
        other.wait_delivered()
    assert before == _fingerprint(
        "/etc/postfix", "/etc/dovecot", "/var/spool/postfix", "/var/lib/postfix"
    )


def _fingerprint(*folders: str) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for root, folders_in, names in os.walk(folder):
            folders_in.sort()
            for name in sorted(names):
                status = os.lstat(os.path.join(root, name))
                digest.update(f"{root}/{name} {status.st_mtime_ns} {status.st_size}".encode())
    return digest.hexdigest()


def test_a_stopped_server_leaves_no_child(tmp_path: Path) -> None:
    """A child that outlives its parent, and one that also ignores SIGTERM."""
    script = "sleep 1000 & (trap '' TERM; sleep 1000; sleep 1000) & exec sleep 1000"
    server = Server("sleepers", ["/bin/sh", "-c", script], str(tmp_path / "log"))
    server.start(until=[])
    session = server.pid
    wait_until(lambda: len(members(session)) == 4, "all sleep")
    server.stop()
    assert members(session) == []


@pytest.mark.parametrize("page", ["virtual-transport", "mailbox-transport", "transport-map"])
def test_what_a_postfix_page_does_it_undoes(page: str) -> None:
    """With Debian's configuration: afterwards master.cf and main.cf are as before."""
    from tests.lab.place import free_ports
    from tests.lab.postfix import Postfix

    place = Place.make()
    try:
        postfix = Postfix(place, free_ports(1)[0], ["example.org"], page=page)
        with_page = postfix.postconf("-n") + postfix.postconf("-M")
        assert "mailseal" in postfix.postconf("-M")
        postfix.run_page(page, "Undo", lmtp_socket="/run/mailseal/lmtp.sock")
        without = postfix.postconf("-n") + postfix.postconf("-M")
        assert "mailseal " not in without
        assert "/run/mailseal" not in without
        postfix.run_page(page, "Run", lmtp_socket="/run/mailseal/lmtp.sock")
        assert postfix.postconf("-n") + postfix.postconf("-M") == with_page
        checked = subprocess.run(
            ["postconf", "-c", postfix.config, "-n"], capture_output=True, text=True
        )
        assert checked.stderr == ""
    finally:
        place.remove()


def test_pages_end_with_a_reload() -> None:
    for page in ("virtual-transport", "mailbox-transport", "transport-map"):
        for part in ("Run", "Undo"):
            assert page_commands(page, part)[-1] == "postfix reload"
