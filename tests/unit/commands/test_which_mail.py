# SPDX-License-Identifier: MIT
"""seal, unseal, verify, drop-key and unenroll: whose mail, and what they say if it is not done."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal.crypto import dcrypt
from mailseal.keys.public import PublicStore
from tests.unit.agent_process import CHEAP, AgentProcess
from tests.unit.commands.user import USER


@pytest.fixture
def host(enrolled: AgentProcess, tmp_path: Path) -> AgentProcess:
    """USER exists and has no mail; BOB exists and is not enrolled."""
    home = f"{{userdb: template, user: nobody, home: {tmp_path}/homes/%n}}"
    enrolled.write_config(f"{CHEAP}delivery: {home}\n")
    for name in ("alice", "bob"):
        (tmp_path / "homes" / name).mkdir(parents=True)
    return enrolled


def test_nobody_has_a_wrong_password_who_is_not_enrolled(host: AgentProcess) -> None:
    for command in (["unseal"], ["reseal"], ["verify", "--tags"]):
        done = host.run(*command, "--stdin", "bob@example.org", stdin=b"pw\n")
        assert done.returncode == 67 and b"bob@example.org is not enrolled" in done.stderr
        done = host.run(*command, "--stdin", USER, stdin=b"wrong\n")
        assert done.returncode == 77 and b"wrong password for alice@example.org" in done.stderr


def test_each_line_of_standard_input_is_for_its_user(host: AgentProcess) -> None:
    """Also if the user database does not know the user before."""
    assert host.run("enroll", "gone@example.org", stdin=b"other\n").returncode == 0
    done = host.run("unseal", "--stdin", "gone@example.org", USER, stdin=b"other\npw\n")
    assert b"gone@example.org: NOT DONE: the user database does not know" in done.stdout
    assert b"alice@example.org: 0 mails stored in clear" in done.stdout
    assert done.returncode == 65


def test_to_run_it_again_does_not_enroll_a_user(host: AgentProcess) -> None:
    done = host.run("seal", "bob@example.org")
    assert done.returncode == 67
    assert b"hint: run `mailseal enroll bob@example.org`" in done.stderr
    done = host.run("seal", USER, "bob@example.org")
    assert done.returncode == 65 and b"bob@example.org: NOT DONE" in done.stdout


def test_only_what_helps_is_said(host: AgentProcess) -> None:
    for options in ((), ("--dry-run",)):
        done = host.run("seal", USER, *options)
        assert (done.returncode, done.stderr) == (0, b"")  # no hint about sessions
    assert b"enrolled," not in host.run("status", USER).stdout
    assert b"1 enrolled, " in host.run("status").stdout


def test_verify_says_that_it_has_checked_nobody(host: AgentProcess) -> None:
    done = host.run("verify", "--domain", "exmaple.org")
    assert done.stderr == b"mailseal: warning: no user is enrolled in exmaple.org\n"
    assert host.run("verify", "--domain", "example.org").stderr == b""
    done = host.run("verify", USER, "--maildir", "/nonexistent")
    assert done.returncode == 1 and b"/nonexistent is not a folder" in done.stdout


def test_the_hints_keep_the_mail_readable(host: AgentProcess, tmp_path: Path) -> None:
    public = PublicStore(f"{tmp_path}/state/public")
    key = public.lookup(USER)
    assert key is not None
    maildir = tmp_path / "Maildir" / "cur"
    maildir.mkdir(parents=True)
    (maildir / "1").write_bytes(dcrypt.seal(key, b"sealed\n"))
    where = ["--maildir", str(maildir.parent)]
    done = host.run("unenroll", USER, *where)
    assert done.returncode == 64
    assert b"hint: to store them in clear, run `mailseal unseal alice@example.org`" in done.stderr
    assert host.run("rotate", USER, stdin=b"pw\n").returncode == 0
    done = host.run("drop-key", USER, key.key_id.hex(), *where, stdin=b"pw\n")
    assert done.returncode == 64 and b"run `mailseal reseal alice@example.org`" in done.stderr
    host.write_config(CHEAP)  # the mail location is not known
    assert b"hint: look for the reason with `mailseal check-config`" in (
        host.run("unenroll", USER).stderr
    )


def test_a_file_without_a_key_is_named(host: AgentProcess, tmp_path: Path) -> None:
    wrong = tmp_path / "escrow.pub.pem"
    wrong.write_text("-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n")
    done = host.run("unseal", "--escrow-key", str(wrong), USER)
    assert done.returncode == 65 and str(wrong).encode() in done.stderr
