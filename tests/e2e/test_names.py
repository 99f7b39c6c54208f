# SPDX-License-Identifier: MIT
"""Unusual user names, from enrollment to the mailbox."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.public import PublicStore
from mailseal.login.client import AgentClient
from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab, LabError, Refused
from tests.lab.smtp import send, send_lmtp

SENDER = "eve@example.net"
MAIL = HEADERS + b"hello\r\n"
LONGEST = "l" * 242 + "@example.org"
ODD = ["gr\u00fc\u00dfe@example.org", "a b@example.org", "o'neill&co!@example.org", LONGEST]
CLIMBING = ["../../../etc/passwd", "a/../b@example.org", "/root", "..", ".", "-rf", "%2e%2e"]


@pytest.fixture(scope="module")
def any_name() -> Iterator[Lab]:
    """A lab whose Dovecot accepts all characters in user names."""
    with Lab({}, dovecot_extra="auth_username_chars =\n") as lab:
        yield lab


def test_longest_name_has_254_bytes() -> None:
    assert len(LONGEST) == 254


@pytest.mark.parametrize("name", ODD)
def test_mail_and_login(any_name: Lab, name: str) -> None:
    any_name.add_user(name)
    assert any_name.mailseal("status", name).returncode == 0
    recipient = f'"{name.split("@")[0]}"@example.org' if " " in name else name
    ((code, text),) = send_lmtp(any_name.lmtp, SENDER, [recipient], MAIL)
    assert code == 250, text
    with Imap(any_name.imap, name, "password") as imap:
        (mail,) = imap.bodies()
    assert mail.endswith(b"hello\r\n")
    (path,) = any_name.stored(name)
    with open(path, "rb") as stream:
        assert stream.read(9) == b"CRYPTED\x03\x07"


FOUND = [
    *ODD,
    'quoted"name\\@example.org',
    "\U0001f511@example.org",
    ".@example.org",
    "%2e@example.org",
    "c/../d@example.org",
    "%" * 62 + "@example.org",
    # Their file names contain a hash, of 2 to 5 blocks of SHA-256; the last one is full or not.
    *("\u0416" * letters + "x" * rest for letters, rest in [(34, 0), (59, 1), (60, 0), (91, 1)]),
    *("\u0416" * letters + "x" * rest for letters, rest in [(92, 0), (123, 1), (124, 0), (127, 0)]),
    ".." + "." * 100 + "\u0416" * 30,
]


def test_the_key_is_found_without_the_agent(any_name: Lab) -> None:
    """Lua computes the file name and reads the file itself."""
    folder = any_name.place.path("state", "public")
    store, key = PublicStore(folder), PrivateKey.generate().public
    for name in FOUND:
        store.publish(name, key)
    any_name.stop_agent()
    try:
        for name in FOUND:
            assert b"global_public_key" in any_name.dovecot.doveadm("user", name), name
        for name in ("%2e%@example.org", "x\U0001f511@example.org", "x" + LONGEST, "\u0416" * 126):
            with pytest.raises(LabError):
                any_name.dovecot.doveadm("user", name)
    finally:
        any_name.start_agent()


def test_utf8_through_postfix(any_name: Lab) -> None:
    name = "m\u00fcller@example.org"
    any_name.add_user(name)
    send(any_name.smtp, SENDER, [name], MAIL)
    any_name.wait_delivered()
    assert len(any_name.inbox(name)) == 1


@pytest.mark.parametrize("name", CLIMBING)
def test_names_that_look_like_paths_stay_in_the_folder(any_name: Lab, name: str) -> None:
    state = any_name.place.path("state")
    before = _files_outside(any_name, state)
    done = any_name.mailseal("enroll", "--stdin", "--", name, stdin=b"password\n")
    assert done.returncode == 0, done.stderr
    assert _files_outside(any_name, state) == before
    done = any_name.mailseal("status", "--", name)
    assert done.returncode == 0
    assert name.encode() in done.stdout


@pytest.mark.parametrize(
    "name", ["", "a\nb@example.org", "a\x1b[31m@example.org", "x" * 243 + "@example.org"]
)
def test_invalid_names(any_name: Lab, name: str) -> None:
    done = any_name.mailseal("enroll", "--stdin", "--", name, stdin=b"password\n")
    assert done.returncode == 64
    assert done.stderr.startswith(b"mailseal: error: the user name ")
    assert done.stderr.count(b"\n") <= 2


def test_nul_in_a_name_is_refused(any_name: Lab) -> None:
    with AgentClient(any_name.agent_socket) as agent:
        answer = agent.request("enroll", user=b"nul\0@example.org", password=b"password")
    assert (answer.status, answer.text("class")) == ("error", "BadUserName")
    any_name.add_user("nul@example.org")
    replies = send_lmtp(any_name.lmtp, SENDER, ["nul\0@example.org"], MAIL)
    assert replies[0][0] >= 500
    assert not os.path.exists(any_name.home("nul@example.org"))


def test_upper_case_is_the_same_user(lab: Lab, user: str) -> None:
    shouted = user.upper()
    send(lab.smtp, SENDER, [shouted], MAIL)
    lab.wait_delivered()
    with Imap(lab.imap, shouted, "password") as imap:
        (mail,) = imap.bodies()
    assert mail.endswith(b"hello\r\n")
    assert len(lab.stored(user)) == 1
    done = lab.mailseal("enroll", "--stdin", shouted, stdin=b"other\n")
    assert done.returncode == 65


def test_dovecot_refuses_names_itself(lab: Lab) -> None:
    """With the default of auth_username_chars, Dovecot refuses most of these itself."""
    for name in ("../../etc@example.org", "a/b@example.org"):
        lab.add_user(name)
        ((code, _),) = send_lmtp(lab.lmtp, SENDER, [name], MAIL)
        assert code >= 400
        with pytest.raises(Refused):
            Imap(lab.imap, name, "password")
    assert not os.path.exists(lab.place.path("etc@example.org"))


def _files_outside(lab: Lab, inside: str) -> set[str]:
    found = set()
    for root, folders, names in os.walk(lab.dir):
        if root == lab.dir:
            folders[:] = [name for name in folders if os.path.join(root, name) != inside]
        found |= {os.path.join(root, name) for name in names}
    return {path for path in found if "/postfix/" not in path and "/log/" not in path}
