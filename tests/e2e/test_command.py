# SPDX-License-Identifier: MIT
"""The mailseal command with running servers: output, exit status, refusals."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab, Refused
from tests.lab.smtp import send_lmtp

SENDER = "eve@example.net"
MAIL = HEADERS + b"the tangerine is in the cellar\r\n" * 50


def error_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """The message on standard error, after a check of its form."""
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("mailseal: error: "), done.stderr
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("mailseal: hint: "))
    assert "Traceback" not in done.stderr.decode()
    return lines[0].removeprefix("mailseal: error: ")


@pytest.fixture
def stored(lab: Lab, user: str) -> str:
    """A sealed file of the user."""
    send_lmtp(lab.lmtp, SENDER, [user], MAIL)
    return lab.stored(user)[0]


def rewritten(path: str, data: bytes) -> str:
    """A file in the same folder as `path`, with other content."""
    other = os.path.join(os.path.dirname(os.path.dirname(path)), "changed")
    with open(other, "wb") as stream:
        stream.write(data)
    return other


def test_cat(lab: Lab, user: str, stored: str) -> None:
    done = lab.mailseal("cat", stored, stdin=b"password\n")
    assert done.returncode == 0
    assert done.stdout.endswith(MAIL.replace(b"\r\n", b"\n"))
    assert done.stdout.startswith(b"Return-Path: <eve@example.net>\n")


@pytest.mark.parametrize("line", [b"wrong\n", b"Password\n", b"\n"])
def test_cat_with_a_wrong_password(lab: Lab, stored: str, line: bytes) -> None:
    done = lab.mailseal("cat", stored, stdin=line)
    assert done.returncode == 77
    assert not done.stdout
    error_of(done)


def test_cat_with_another_users_password(lab: Lab, user: str, stored: str) -> None:
    lab.add_user(f"other-{user}", "anothers")
    done = lab.mailseal("cat", "--user", f"other-{user}", stored, stdin=b"anothers\n")
    assert done.returncode == 77
    assert not done.stdout
    assert "sealed to" in error_of(done)


@pytest.mark.parametrize("part", ["start", "key id", "ephemeral key", "secret", "text", "tag"])
def test_cat_of_a_flipped_bit(lab: Lab, stored: str, part: str) -> None:
    with open(stored, "rb") as stream:
        data = bytearray(stream.read())
    offset = {"start": 3, "key id": 60, "ephemeral key": 100, "secret": 180, "text": 400, "tag": -3}
    data[offset[part]] ^= 1
    done = lab.mailseal("cat", rewritten(stored, bytes(data)), stdin=b"password\n")
    assert done.returncode in (65, 67, 77)
    assert not done.stdout
    error_of(done)


@pytest.mark.parametrize("keep", [0, 5, 9, 100, 254, 255, 270, 500, -1])
def test_cat_of_a_truncated_file(lab: Lab, stored: str, keep: int) -> None:
    with open(stored, "rb") as stream:
        data = stream.read()
    done = lab.mailseal("cat", rewritten(stored, data[:keep]), stdin=b"password\n")
    assert done.returncode == 65
    assert not done.stdout
    error_of(done)


def test_cat_of_a_file_with_appended_bytes(lab: Lab, stored: str) -> None:
    with open(stored, "rb") as stream:
        data = stream.read()
    done = lab.mailseal("cat", rewritten(stored, data + b"x"), stdin=b"password\n")
    assert (done.returncode, done.stdout) == (65, b"")


@pytest.mark.parametrize(
    "content", [MAIL, b"\0" * 4096, b"-----BEGIN PGP MESSAGE-----\n", b"CRYPTED"]
)
def test_cat_of_a_foreign_file(lab: Lab, stored: str, content: bytes) -> None:
    done = lab.mailseal("cat", rewritten(stored, content), stdin=b"password\n")
    assert (done.returncode, done.stdout) == (65, b"")
    error_of(done)


@pytest.mark.parametrize("path", ["/nonexistent", "/", "/dev/null"])
def test_cat_of_no_file(lab: Lab, path: str) -> None:
    done = lab.mailseal("cat", path, stdin=b"password\n")
    assert done.returncode in (65, 75)
    error_of(done)


def test_enroll_status_passwd_lock(lab: Lab) -> None:
    user = "newcomer@example.org"
    done = lab.mailseal("enroll", user, stdin=b"first password\n")
    assert done.returncode == 0
    assert b"no recovery method" in done.stderr
    done = lab.mailseal("enroll", user, stdin=b"first password\n")
    assert done.returncode == 65
    error_of(done)
    send_lmtp(lab.lmtp, SENDER, [user], MAIL)
    (path,) = lab.stored(user)
    with open(path, "rb") as stream:
        before = stream.read()
    with Imap(lab.imap, user, "first password") as imap:
        (mail,) = imap.bodies()

    done = lab.mailseal("passwd", user, stdin=b"not it\nsecond\n")
    assert done.returncode == 77
    done = lab.mailseal("passwd", user, stdin=b"first password\nsecond password\n")
    assert done.returncode == 0, done.stderr
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(lab.imap, user, "first password")
    with Imap(lab.imap, user, "second password") as imap:
        assert imap.bodies() == [mail]
    (path,) = lab.stored(user)
    with open(path, "rb") as stream:
        assert stream.read() == before

    assert b"session: " in lab.mailseal("status", user).stdout
    assert lab.mailseal("lock", user).returncode == 0
    assert b"session: " not in lab.mailseal("status", user).stdout


def test_unknown_users(lab: Lab) -> None:
    for command, stdin in (("status", b""), ("passwd", b"a\nb\n")):
        done = lab.mailseal(command, "ghost@example.org", stdin=stdin)
        assert done.returncode in (67, 77)
        error_of(done)


def test_wrong_arguments(lab: Lab) -> None:
    for arguments in ([], ["frobnicate"], ["cat"], ["enroll", "a", "b", "c"]):
        done = lab.mailseal(*arguments)
        assert done.returncode == 64
        error_of(done)


def test_check_config_names_line_and_option(lab: Lab) -> None:
    assert lab.mailseal("check-config", "--file-only").returncode == 0
    bad = lab.place.path("bad.yaml")
    with open(bad, "w", encoding="utf-8") as stream:
        stream.write("agent:\n  parallel: 2\n  sokcet: /x\n")
    done = subprocess.run(
        [os.path.join(lab.hooks, "mailseal"), "-c", bad, "check-config"], capture_output=True
    )
    assert done.returncode == 78
    assert error_of(done) == f"{bad}:3: unknown option agent.sokcet"


def test_print_config_is_a_config(lab: Lab) -> None:
    printed = lab.mailseal("print-config")
    again = lab.place.path("again.yaml")
    with open(again, "wb") as stream:
        stream.write(printed.stdout)
    command = [os.path.join(lab.hooks, "mailseal"), "-c", again, "print-config"]
    assert subprocess.run(command, capture_output=True).stdout == printed.stdout


def test_another_user_may_not_ask_the_agent(lab: Lab, user: str) -> None:
    done = subprocess.run(
        [os.path.join(lab.hooks, "mailseal"), "-c", lab.config_path, "status", user],
        capture_output=True,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    assert done.returncode == 77
    assert "65534" in error_of(done)
