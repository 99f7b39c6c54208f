# SPDX-License-Identifier: MIT
"""`mailseal enroll` behind a real passwd-file: it asks Dovecot whether a login would succeed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import Imap, Lab, Refused
from tests.lab.dovecot import installed_version

FILE = {f"u{number}@example.org": f"word {number}" for number in range(8)}
_SITE = {
    "2.3": "passdb {\n  driver = passwd-file\n  args = FILE\n}\n"
    "userdb {\n  driver = passwd-file\n  args = FILE\n}\n",
    "2.4": "passdb passwd-file {\n  passwd_file_path = FILE\n}\n"
    "userdb passwd-file {\n  passwd_file_path = FILE\n}\n",
}
"""A Dovecot without mailseal's settings."""
ALIAS = {"alias@example.org": "user=u0@example.org"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    users = {**FILE, "alias@example.org": "word"}
    with Lab({}, auth="behind-passwd-file", plain_users=users) as made:
        made.dovecot.write_users(users, ALIAS)
        yield made


def enroll(lab: Lab, user: str, password: str, *more: str) -> subprocess.CompletedProcess[bytes]:
    return lab.mailseal("enroll", user, "--stdin", *more, stdin=f"{password}\n".encode())


def is_enrolled(lab: Lab, user: str) -> bool:
    return lab.mailseal("status", user).returncode == 0


def test_the_right_password(lab: Lab) -> None:
    user, password = "u1@example.org", FILE["u1@example.org"]
    done = enroll(lab, user, password)
    assert done.returncode == 0, done.stderr
    with Imap(lab.imap, user, password) as imap:
        assert imap.bodies() == []
    done = enroll(lab, user, password)
    assert done.returncode == 65 and b"already enrolled" in done.stderr


@pytest.mark.parametrize(
    ("user", "password", "status", "says"),
    [
        ("u2@example.org", "wrong", 77, b"Dovecot refuses this password for u2@example.org"),
        ("ghost@example.org", "word", 67, b"Dovecot does not know the user ghost@example.org"),
        (
            "alias@example.org",
            "word",
            64,
            b"Dovecot's name for alias@example.org is u0@example.org",
        ),
        ("u2@example.org", "x" * 256, 64, b"at most 255"),
    ],
)
def test_passwords_and_users_that_dovecot_refuses(
    lab: Lab, user: str, password: str, status: int, says: bytes
) -> None:
    done = enroll(lab, user, password)
    assert (done.returncode, done.stdout) == (status, b"") and says in done.stderr
    assert not is_enrolled(lab, user)


def test_dovecot_is_down_and_unchecked(lab: Lab) -> None:
    user = "u3@example.org"
    lab.dovecot.stop()
    try:
        done = enroll(lab, user, FILE[user])
        assert done.returncode == 75 and b"is Dovecot running?" in done.stderr
        assert not is_enrolled(lab, user)
        assert enroll(lab, user, FILE[user], "--unchecked").returncode == 0
    finally:
        lab.dovecot.start()
    with Imap(lab.imap, user, FILE[user]):
        pass


def test_before_dovecot_uses_mailseals_settings() -> None:
    """Clients would save mail in clear, so nobody can be enrolled yet."""
    user = "u1@example.org"
    with Lab({}, auth=None, plain_users=FILE) as lab:
        file = lab.dovecot.wanted.users_file
        lab.dovecot.write_config(_SITE[installed_version()[:3]].replace("FILE", file))
        lab.dovecot.restart()
        with Imap(lab.imap, user, FILE[user]):
            pass
        done = enroll(lab, user, FILE[user])
        assert done.returncode == 75, done.stderr
        assert b"might save mail for u1@example.org in clear" in done.stderr
        assert b"`mailseal check-config`" in done.stderr
        assert not is_enrolled(lab, user)
        assert enroll(lab, user, "wrong").returncode == 77
        assert enroll(lab, user, FILE[user], "--unchecked").returncode == 0


def test_the_agent_is_down(lab: Lab) -> None:
    lab.stop_agent()
    try:
        done = enroll(lab, "u2@example.org", FILE["u2@example.org"])
        assert done.returncode == 75 and b"mailseal-agent" in done.stderr
    finally:
        lab.start_agent()


def test_enrolled_by_the_login_that_checks_the_password(lab: Lab) -> None:
    user = "u4@example.org"
    lab.write_config({"login.enroll": "at-login", "login.enroll_for": [user]})
    lab.restart_agent()
    try:
        done = enroll(lab, user, FILE[user])
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{user} is enrolled, key ".encode())
        assert b"LOST MAIL" in done.stderr
    finally:
        lab.write_config({})
        lab.restart_agent()


def test_a_list(lab: Lab) -> None:
    rows = [
        ("u5@example.org", FILE["u5@example.org"]),
        ("u6@example.org", "wrong"),
        ("ghost@example.org", "word"),
        ("u7@example.org", FILE["u7@example.org"]),
    ]
    text = "".join(f"{user}\t{password}\n" for user, password in rows) + "no tab here\n"
    done = lab.mailseal("enroll", "--stdin-list", stdin=text.encode())
    assert done.returncode == 65, done.stderr
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert [line[:2] for line in lines] == [
        ["u5@example.org", "enrolled"],
        ["u6@example.org", "failed"],
        ["ghost@example.org", "failed"],
        ["u7@example.org", "enrolled"],
        ["no tab here", "failed"],
    ]
    assert [line[2] for line in lines if line[1] == "failed"] == ["77", "67", "64"]
    (entry,) = json.loads(lab.mailseal("status", "--json", "u5@example.org").stdout)["users"]
    assert entry["keys"][0]["id"] == lines[0][2]
    with Imap(lab.imap, *rows[3]):
        pass
    done = lab.mailseal("enroll", "--stdin-list", stdin=f"{rows[0][0]}\t{rows[0][1]}\n".encode())
    assert (done.returncode, done.stdout) == (0, b"u5@example.org\talready enrolled\n")


def test_a_list_while_dovecot_is_down_may_be_tried_again(lab: Lab) -> None:
    text = f"u6@example.org\t{FILE['u6@example.org']}\n"
    lab.dovecot.stop()
    try:
        done = lab.mailseal("enroll", "--stdin-list", stdin=f"bad line\n{text}".encode())
        assert done.returncode == 75 and done.stdout.count(b"failed\t") == 2
    finally:
        lab.dovecot.start()
    assert lab.mailseal("enroll", "--stdin-list", stdin=text.encode()).returncode == 0


@pytest.mark.parametrize("arguments", [[], ["--stdin-list", "u2@example.org"]])
def test_usage(lab: Lab, arguments: list[str]) -> None:
    assert lab.mailseal("enroll", *arguments, stdin=b"x\n").returncode == 64


def test_the_password_is_in_no_argument_and_no_log(lab: Lab) -> None:
    """strace shows each execve: the command runs doveconf, which gets no password."""
    user, password = "u2@example.org", FILE["u2@example.org"]
    hook = os.path.join(lab.hooks, "mailseal")
    code = (
        "import runpy, subprocess, os, sys\n"
        "def none(*a, **k): raise SystemExit(99)\n"
        "os.execv = os.posix_spawn = none\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, args, **k):\n"
        f"        if args[0] != 'doveconf' or {password!r} in repr((args, k)): none()\n"
        "        super().__init__(args, **k)\n"
        "subprocess.Popen = Popen\n"
        f"sys.argv = {[hook, '-c', lab.config_path, 'enroll', '--stdin', user]!r}\n"
        f"runpy.run_path({hook!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code], input=f"{password}\n".encode(), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert password not in lab.log_text()


def test_a_wrong_password_stays_wrong_after_it(lab: Lab) -> None:
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(lab.imap, "u1@example.org", "wrong")
