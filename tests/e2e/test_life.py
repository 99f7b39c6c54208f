# SPDX-License-Identifier: MIT
"""Keys with Dovecot: rotation, policies, master users, logs.

One lab behind a passwd-file, with all of Dovecot's debug logs.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import WrongPassword
from tests.e2e.mails import HEADERS
from tests.lab import ALICE, Imap, Lab, Pop3, Refused
from tests.lab.dovecot import installed_version, series, snippet
from tests.lab.place import free_ports
from tests.lab.process import suspend, wait_until
from tests.lab.smtp import send

SENDER = "eve@example.net"
NEWCOMER = "newcomer@example.com"
LATER = "later@example.com"
STRANGER = "stranger@example.org"
SECRET = "correct-horse-17"
TEXT = b"the tangerine is in the cellar\r\n"
MAIL = HEADERS + TEXT
# 2.4 has only one way to ask the agent: Lua.
SNIPPETS = {
    "2.3": ("auth-behind-passwd-file", "auth-behind-passwd-file-checkpassword"),
    "2.4": ("auth-behind-passwd-file",),
}
DEBUG = {
    "2.3": "auth_debug = yes\nmail_debug = yes\nprotocols = $protocols submission\n",
    "2.4": "log_debug = category=auth or category=mail\nprotocols {{\n  submission = yes\n}}\n",
}
EXTRA = """
auth_verbose = yes
submission_relay_host = 127.0.0.1
submission_relay_port = {smtp}
service submission-login {{
  inet_listener submission {{
    port = {submission}
  }}
}}
"""


class Life(Lab):
    """The lab with master users, Submission and all debug logs."""

    def __init__(self, auth: str) -> None:
        super().__init__(
            {ALICE: SECRET},
            # The files for 2.4 change the existing passdb, those for 2.3 contain it.
            auth="passwd-file" if installed_version().startswith("2.4.") else None,
            plain_users={NEWCOMER: SECRET, LATER: SECRET, STRANGER: SECRET},
            config_extra={"login.enroll": "at-login", "login.enroll_for": ["@example.com"]},
        )
        (port,) = free_ports(1)
        self.submission = ("127.0.0.1", port)
        masters = self.place.path("dovecot", "master-users")
        with open(masters, "w", encoding="utf-8") as stream:
            stream.write("root:{PLAIN}master password\n")
        version = self.dovecot.version
        extra = (DEBUG[version[:3]] + EXTRA).format(smtp=self.smtp[1], submission=port)
        places = {
            **self.dovecot.wanted.places,
            "/etc/dovecot/master-users": masters,
        }
        extra += snippet(version, "auth-master-user", places) + snippet(version, auth, places)
        self.dovecot.write_config(extra=extra)

    def agent_log(self) -> str:
        with open(self.place.path("log", "agent.log"), encoding="utf-8") as stream:
            return stream.read()


@pytest.fixture(scope="module", params=SNIPPETS[series(installed_version())])
def lab(request: pytest.FixtureRequest) -> Iterator[Life]:
    made = Life(request.param)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def through_lua(request: pytest.FixtureRequest, lab: Life) -> bool:
    return "driver = lua" in Path(lab.dovecot.config).read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _a_mail_and_no_session(lab: Life) -> None:
    if not lab.stored(ALICE):
        send(lab.smtp, SENDER, [ALICE], MAIL)
        lab.wait_delivered()
    lab.mailseal("lock", "--all")


def first_bytes(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(7)


def test_after_rotation_old_and_new_mail_are_read(lab: Life) -> None:
    before = len(lab.stored(ALICE))
    assert lab.mailseal("rotate", ALICE, stdin=SECRET.encode() + b"\n").returncode == 0
    send(lab.smtp, SENDER, [ALICE], HEADERS + b"sealed to the new key\r\n")
    lab.wait_delivered()
    assert len(lab.stored(ALICE)) == before + 1
    with Imap(lab.imap, ALICE, SECRET) as imap:
        bodies = imap.bodies()
        assert bodies[0].endswith(TEXT) and bodies[-1].endswith(b"sealed to the new key\r\n")
        imap.append("Sent", MAIL)
        assert imap.bodies("Sent")[-1] == MAIL
    # three keys
    assert lab.mailseal("rotate", ALICE, stdin=SECRET.encode() + b"\n").returncode == 0
    with Pop3(lab.pop3, ALICE, SECRET) as pop3:
        assert pop3.mail(1).endswith(TEXT)
        assert pop3.mail(before + 1).endswith(b"sealed to the new key\r\n")


def test_a_login_ends_no_session_and_a_second_one_uses_it(lab: Life) -> None:
    mark = len(lab.agent_log())
    for _ in range(3):
        with Imap(lab.imap, ALICE, SECRET) as imap:
            assert imap.bodies()[0].endswith(TEXT)
    found = re.findall(r"service=imap, .*result=ok, session=(\w+)", lab.agent_log()[mark:])
    assert found == ["new", "cached", "cached"]


def test_a_master_user_gets_no_key_and_the_log_says_so(lab: Life) -> None:
    mark = len(lab.dovecot.log_text())
    with Imap(lab.imap, f"{ALICE}*root", "master password") as imap:
        assert imap.select() >= 1
        imap.append("Sent", MAIL)
        with pytest.raises(Refused):
            imap.body(1)
    wait_until(
        lambda: "no key: master user <root>" in lab.dovecot.log_text()[mark:], "it is logged"
    )
    assert {first_bytes(path) for path in lab.stored(ALICE, "Sent")} == {b"CRYPTED"}
    with pytest.raises(Refused):
        Pop3(lab.pop3, f"{ALICE}*root", "master password")
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(lab.imap, f"{ALICE}*root", SECRET)


def test_submission_derives_no_key(lab: Life) -> None:
    mark = len(lab.agent_log())
    with smtplib.SMTP(*lab.submission) as client:
        client.login(ALICE, SECRET)
        client.sendmail(ALICE, [ALICE], MAIL)
    lab.wait_delivered()
    log = lab.agent_log()[mark:]
    assert "service=submission" in log and "result=no key needed" in log
    assert "session=new" not in log
    with smtplib.SMTP(*lab.submission) as client, pytest.raises(smtplib.SMTPAuthenticationError):
        client.login(ALICE, "wrong")


def test_enrollment_at_the_first_login_for_some(lab: Life) -> None:
    with Imap(lab.imap, STRANGER, SECRET):
        pass
    assert lab.mailseal("status", STRANGER).returncode == 67
    send(lab.smtp, SENDER, [STRANGER], MAIL)
    with Imap(lab.imap, NEWCOMER, SECRET) as imap:
        imap.append("INBOX", MAIL)
        assert imap.bodies() == [MAIL]
    assert b"LOST MAIL" in lab.mailseal("status", NEWCOMER).stdout
    assert first_bytes(lab.stored(NEWCOMER)[0]) == b"CRYPTED"
    assert f"user=<{NEWCOMER}> HAS NO RECOVERY METHOD" in lab.agent_log()
    lab.wait_delivered()
    assert first_bytes(lab.stored(STRANGER)[0]) == b"Return-"


def test_a_new_user_logs_in_without_the_agent_and_is_enrolled_later(lab: Life) -> None:
    """With `enroll: at-login` no login depends on the agent."""
    lab.stop_agent()
    try:
        with Imap(lab.imap, LATER, SECRET) as imap:
            imap.append("INBOX", MAIL)
    finally:
        lab.start_agent()
    assert first_bytes(lab.stored(LATER)[0]) == b"From: <"
    assert lab.mailseal("status", LATER).returncode == 67
    suspend(lab.agent.pid)
    try:
        with Imap(lab.imap, LATER, SECRET) as imap:
            assert imap.bodies() == [MAIL]
    finally:
        os.kill(lab.agent.pid, signal.SIGCONT)
    with Imap(lab.imap, LATER, SECRET) as imap:
        imap.append("Sent", MAIL)
        assert imap.bodies("Sent") == imap.bodies() == [MAIL]
    assert first_bytes(lab.stored(LATER, "Sent")[0]) == b"CRYPTED"


def spellings(secret: bytes) -> set[bytes]:
    """All encodings in which a log can contain some bytes."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for padding in range(3):
        # base64 of a text with the secret inside: the part that does not depend on other bytes
        encoded = base64.b64encode(b"\0" * padding + secret)
        found.add(encoded[4 if padding else 0 : -4])
    return found


def test_no_log_holds_a_private_key_or_a_password(lab: Life, through_lua: bool) -> None:
    """With auth_debug and mail_debug on, in all encodings.

    With Lua the log contains the wrapped key, but not the password that opens it.
    Dovecot 2.3 logs the complete answer of a checkpassword program at debug level, with wrapped
    key and one-time password.  So the files say that auth_debug must be off; this test would
    detect a change.
    """
    with Imap(lab.imap, ALICE, SECRET) as imap:
        assert imap.bodies()[0].endswith(TEXT)
    with Pop3(lab.pop3, ALICE, SECRET):
        pass
    exported = lab.mailseal(
        "export-key", ALICE, "--format", "dovecot", stdin=SECRET.encode() + b"\n"
    )
    keys = [PrivateKey.parse(line) for line in exported.stdout.decode().splitlines()]
    log = lab.log_text().encode()
    assert b"Debug: " in log and b"crypt_global_private_key" in log
    for key in keys:
        for spelling in spellings(key.scalar):
            assert spelling not in log
    # submission-login logs all commands of clients, also without mailseal: docs/keys.md warns of it
    log = b"\n".join(line for line in log.splitlines() if b"Received new command: AUTH" not in line)
    for spelling in spellings(SECRET.encode()):
        assert spelling not in log
    wrapped = set(re.findall(r"private_key\d?=(2:[0-9a-z:.-]+)", log.decode()))
    passwords = set(re.findall(r"_password=([\w-]{22})", log.decode()))
    # 2.4 hides the wrapped key too, because the name of its block contains "pass".
    assert bool(wrapped) is lab.dovecot.version.startswith("2.3.")
    assert bool(passwords) is not through_lua
    opened = {text for text in wrapped for word in passwords if opens(text, word)}
    assert bool(opened) is not through_lua


def opens(wrapped: str, password: str) -> bool:
    try:
        PrivateKey.parse(wrapped, password.encode())
    except WrongPassword:
        return False
    return True
