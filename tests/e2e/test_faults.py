# SPDX-License-Identifier: MIT
"""Faults: nothing is lost or in clear, and clients get the right reply."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator

import pytest

from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab, Pop3, Refused
from tests.lab.process import PATIENCE, wait_until
from tests.lab.smtp import send, send_lmtp

SENDER = "eve@example.net"
MAIL = HEADERS + b"the tangerine is in the cellar\r\n"


def deferred(lab: Lab, user: str) -> str:
    """Wait for Postfix's log line with the reason why mail to `user` is deferred."""
    pattern = re.compile(rf"to=<{re.escape(user)}>.*status=deferred \((.*)\)")
    wait_until(lambda: pattern.search(lab.postfix.log_text()), f"mail to {user} is deferred")
    match = pattern.search(lab.postfix.log_text())
    assert match
    return match[1]


@pytest.fixture
def public_key(lab: Lab, user: str) -> Iterator[str]:
    """The path of the user's public key; it is repaired after the test."""
    folder = lab.place.path("state", "public")
    (path,) = [
        os.path.join(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name.startswith(user.split("@")[0] + "@") and os.path.getsize(os.path.join(root, name))
    ]
    saved = path + ".saved-by-test"
    shutil.copy2(path, saved)
    status = os.stat(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)
    os.replace(saved, path)
    os.chown(path, status.st_uid, status.st_gid)


class TestAgentDown:
    """IMAP and POP3 report a temporary failure; deliveries continue, sealed."""

    @pytest.fixture(autouse=True)
    def without_agent(self, lab: Lab, user: str) -> Iterator[None]:
        lab.stop_agent()
        yield
        lab.start_agent()
        with lab.login(user):
            pass

    def test_imap(self, lab: Lab, user: str) -> None:
        with pytest.raises(Refused, match=r"\[UNAVAILABLE\]") as answer:
            lab.login(user)
        assert "AUTHENTICATIONFAILED" not in str(answer.value)

    def test_imap_with_a_wrong_password(self, lab: Lab, user: str) -> None:
        with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
            Imap(lab.imap, user, "wrong")

    def test_pop3(self, lab: Lab, user: str) -> None:
        with pytest.raises(Refused, match=r"\[SYS/TEMP\]"):
            Pop3(lab.pop3, user, "password")

    def test_the_log_says_why(self, lab: Lab, user: str) -> None:
        with pytest.raises(Refused):
            lab.login(user)
        wait_until(lambda: "cannot reach the key agent" in lab.dovecot.log_text(), "it is logged")

    def test_mail_is_queued_and_then_sealed(self, lab: Lab, user: str) -> None:
        # If mailseal's passdb is the only one, Dovecot does not know who exists.
        send(lab.smtp, SENDER, [user], MAIL)
        wait_until(
            lambda: lab.stored(user) or "status=deferred" in lab.postfix.log_text(),
            "the mail was tried",
        )
        for path in lab.stored(user):
            with open(path, "rb") as stream:
                assert stream.read(9) == b"CRYPTED\x03\x07"
        lab.start_agent()
        lab.postfix.flush()
        lab.wait_delivered()
        (mail,) = lab.inbox(user)
        assert mail.endswith(MAIL[-20:])
        (path,) = lab.stored(user)
        with open(path, "rb") as stream:
            assert stream.read(9) == b"CRYPTED\x03\x07"

    def test_the_command(self, lab: Lab, user: str) -> None:
        done = lab.mailseal("status", user)
        assert done.returncode == 75
        assert re.fullmatch(
            rb"mailseal: error: cannot reach the key agent[^\n]*\nmailseal: hint: [^\n]*\n",
            done.stderr,
        )


@pytest.mark.parametrize(
    "damage", ["a folder", "junk", "empty", "cut", "gone", "another user's", "not readable"]
)
def test_an_unreadable_public_key_defers_and_is_delivered_after_repair(
    lab: Lab, user: str, public_key: str, damage: str
) -> None:
    with open(public_key, "rb") as stream:
        good = stream.read()
    status = os.stat(public_key)
    os.unlink(public_key)
    if damage == "a folder":
        os.mkdir(public_key)
    elif damage == "another user's":
        lab.add_user(f"other-{user}")
        folder, name = os.path.split(public_key)
        shutil.copy(os.path.join(folder, f"other-{name}"), public_key)
    elif damage != "gone":
        content = {"junk": b"junk", "empty": b"", "cut": good[:40], "not readable": good}[damage]
        with open(public_key, "wb") as stream:
            stream.write(content)
        os.chmod(public_key, 0 if damage == "not readable" else 0o644)

    ((code, text),) = send_lmtp(lab.lmtp, SENDER, [user], MAIL)
    assert (code, text[:2]) == (451, b"4.")
    send(lab.smtp, SENDER, [user], MAIL)
    assert "said: 451 4." in deferred(lab, user)
    assert len(lab.postfix_queue()) == 1
    assert not os.path.exists(lab.maildir(user)) or not lab.stored(user)

    if damage == "a folder":
        os.rmdir(public_key)
    with open(public_key, "wb") as stream:
        stream.write(good)
    os.chmod(public_key, 0o644)
    os.chown(public_key, status.st_uid, status.st_gid)
    lab.postfix.flush()
    lab.wait_delivered()
    (mail,) = lab.inbox(user)
    assert mail.endswith(MAIL[-20:])
    (path,) = lab.stored(user)
    with open(path, "rb") as stream:
        assert stream.read(9) == b"CRYPTED\x03\x07"


def test_mail_is_queued_while_mailseal_lmtp_is_down(lab: Lab, user: str) -> None:
    lab.delivery.stop()
    try:
        send(lab.smtp, SENDER, [user], MAIL)
        deferred(lab, user)
        assert len(lab.postfix_queue()) == 1
    finally:
        lab.start_delivery()
    lab.wait_delivered()
    assert len(lab.inbox(user)) == 1


def test_dovecot_down_defers(lab: Lab, user: str) -> None:
    lab.dovecot.stop()
    try:
        send(lab.smtp, SENDER, [user], MAIL)
        deferred(lab, user)
    finally:
        lab.dovecot.start()
    lab.wait_delivered()
    assert len(lab.inbox(user)) == 1


def test_a_maildir_that_cannot_be_written_defers(lab: Lab, user: str) -> None:
    send_lmtp(lab.lmtp, SENDER, [user], MAIL)
    tmp = os.path.join(lab.maildir(user), "tmp")
    os.rmdir(tmp)
    with open(tmp, "wb"):
        pass
    ((code, text),) = send_lmtp(lab.lmtp, SENDER, [user], MAIL)
    assert (code, text[:2]) == (451, b"4.")
    assert len(lab.stored(user)) == 1
    os.unlink(tmp)
    assert send_lmtp(lab.lmtp, SENDER, [user], MAIL)[0][0] == 250


def test_a_damaged_keyring_is_no_wrong_password(lab: Lab, user: str) -> None:
    folder = lab.place.path("state", "keys")
    (path,) = [
        os.path.join(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name.startswith(user.split("@")[0] + "@")
    ]
    with open(path, "rb") as stream:
        good = stream.read()
    for bad in (b"", good[:100], good.replace(b'"', b"'", 1), b"\0" + good[1:]):
        with open(path, "wb") as stream:
            stream.write(bad)
        with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
            lab.login(user)
    with open(path, "wb") as stream:
        stream.write(good)
    with lab.login(user):
        pass


def test_a_stop_finishes_accepted_mail(lab: Lab, user: str) -> None:
    for _ in range(20):
        send(lab.smtp, SENDER, [user], MAIL)
    status = lab.delivery.stop(timeout=PATIENCE)
    lab.start_delivery()
    lab.wait_delivered()
    assert status == 0
    assert len(lab.inbox(user)) == 20
