# SPDX-License-Identifier: MIT
"""A mail arrives by SMTP, is sealed on disk, and can be read with IMAP and POP3."""

from __future__ import annotations

import os
import re
import stat

import pytest

from tests.e2e.mails import HEADERS, ODD, cpython_mails, crlf
from tests.lab import Imap, Lab, Pop3, Refused
from tests.lab.place import MAIL_UID
from tests.lab.smtp import Rejected, send, send_lmtp

SENDER = "eve@example.net"
MAIL = HEADERS + b"the tangerine is in the cellar\r\n.\r\n"


def after_trace(mail: bytes) -> bytes:
    """The mail after the trace headers of mailseal-lmtp."""
    match = re.match(
        rb"Return-Path: <[^>]*>\r\nDelivered-To: [^\r]+\r\n"
        rb"Received: from [^\r]+\r\n(?:\t[^\r]+\r\n)+",
        mail,
    )
    assert match, mail[:500]
    return mail[match.end() :]


def after_postfix(mail: bytes) -> bytes:
    """The mail after Postfix's Received header."""
    rest = after_trace(mail)
    match = re.match(rb"Received: from client\.example\.net [^\r]+\r\n(?:\t[^\r]+\r\n)+", rest)
    assert match, rest[:500]
    return rest[match.end() :]


@pytest.fixture
def complete() -> bytes:
    """A mail to which Postfix adds no headers."""
    return (
        b"From: <eve@example.net>\r\nTo: <alice@example.org>\r\nMessage-ID: <1@example.net>\r\n"
        b"Date: Thu, 01 Jan 2026 12:00:00 +0000\r\nSubject: a mail\r\n\r\n"
        b"the tangerine is in the cellar\r\n.\r\n..\r\n\xc3\xa9\r\n"
    )


def test_smtp_to_imap_and_pop3_byte_for_byte(lab: Lab, user: str, complete: bytes) -> None:
    send(lab.smtp, SENDER, [user], complete)
    lab.wait_delivered()
    (by_imap,) = lab.inbox(user)
    with Pop3(lab.pop3, user, "password") as pop3:
        assert pop3.mail(1) == by_imap
    assert after_postfix(by_imap) == complete
    assert by_imap.startswith(b"Return-Path: <eve@example.net>\r\nDelivered-To: %s" % user.encode())


def test_the_file_is_ciphertext_of_the_mail(lab: Lab, user: str) -> None:
    assert send_lmtp(lab.lmtp, SENDER, [user], MAIL)[0][0] == 250
    (path,) = lab.stored(user)
    status = os.stat(path)
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (MAIL_UID, 0o600)
    with open(path, "rb") as stream:
        data = stream.read()
    (mail,) = lab.inbox(user)
    stored_size = len(mail.replace(b"\r\n", b"\n"))
    assert data.startswith(b"CRYPTED\x03\x07\x02\x00\x00\x00\x02")
    assert len(data) == 255 + stored_size + 16
    assert f",S={stored_size},W={len(mail)}" in path
    assert b"tangerine" not in data
    assert b"Subject" not in data


def test_each_recipient_gets_a_separate_ciphertext(lab: Lab, user: str) -> None:
    others = [f"{name}-{user}" for name in ("b", "c")]
    for other in others:
        lab.add_user(other)
    send(lab.smtp, SENDER, [user, *others], MAIL)
    lab.wait_delivered()
    contents = []
    for name in (user, *others):
        (path,) = lab.stored(name)
        with open(path, "rb") as stream:
            contents.append(stream.read())
        (mail,) = lab.inbox(name)
        assert b"Delivered-To: %s\r\n" % name.encode() in mail
        assert mail.endswith(MAIL.partition(b"\r\n\r\n")[2])
    assert len({content[-64:] for content in contents}) == 3


def test_null_sender(lab: Lab, user: str) -> None:
    send(lab.smtp, "", [user], MAIL)
    lab.wait_delivered()
    assert lab.inbox(user)[0].startswith(b"Return-Path: <>\r\n")


def test_an_unknown_user_is_refused_with_a_bounce(lab: Lab, user: str) -> None:
    ghost = f"ghost-{user}"
    replies = send_lmtp(lab.lmtp, SENDER, [ghost, user], MAIL)
    assert (replies[0][0], replies[0][1][:5], replies[1][0]) == (550, b"5.1.1", 250)
    assert not os.path.exists(lab.home(ghost))
    send(lab.smtp, user, [ghost], MAIL)
    lab.wait_delivered()
    bounce = lab.inbox(user)[-1]
    assert b"5.1.1" in bounce
    assert ghost.encode() in bounce


def test_postfix_refuses_other_domains(lab: Lab) -> None:
    with pytest.raises(Rejected) as refusal:
        send(lab.smtp, SENDER, ["someone@elsewhere.example"], MAIL)
    assert refusal.value.code == 554


def test_mail_saved_in_sent_is_sealed(lab: Lab, user: str) -> None:
    with lab.login(user) as imap:
        imap.append("Sent", MAIL)
        assert imap.bodies("Sent") == [MAIL]
    (path,) = lab.stored(user, "Sent")
    with open(path, "rb") as stream:
        assert stream.read(9) == b"CRYPTED\x03\x07"


def test_copy_and_move_keep_mails_sealed(lab: Lab, user: str) -> None:
    send_lmtp(lab.lmtp, SENDER, [user], MAIL)
    with lab.login(user) as imap:
        imap.command(b"CREATE Archive")
        imap.select()
        before = imap.body(1)
        imap.command(b"COPY 1 Archive")
        imap.command(b"MOVE 1 Sent")
        assert imap.bodies("Archive") == imap.bodies("Sent") == [before]
    for folder in ("Archive", "Sent"):
        (path,) = lab.stored(user, folder)
        with open(path, "rb") as stream:
            assert stream.read(9) == b"CRYPTED\x03\x07"


def test_headers_parts_and_search_work_in_the_client(lab: Lab, user: str) -> None:
    mail = (
        b'From: "Eve" <eve@example.net>\r\nSubject: parts\r\nMIME-Version: 1.0\r\n'
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nfirst\r\n"
        b"--b\r\nContent-Type: application/x-thing\r\n\r\nsecond part\r\n--b--\r\n"
    )
    send_lmtp(lab.lmtp, SENDER, [user], mail)
    with lab.login(user) as imap:
        imap.select()
        assert imap.body(1, b"2") == b"second part"
        assert imap.body(1, b"HEADER.FIELDS (SUBJECT)") == b"Subject: parts\r\n\r\n"
        assert imap.command(b'SEARCH BODY "first"')[0] == b"* SEARCH 1"
        assert b'"Eve"' in imap.command(b"FETCH 1 ENVELOPE")[0]


@pytest.mark.parametrize("name", ODD)
def test_odd_mails_by_lmtp(lab: Lab, user: str, name: str) -> None:
    assert send_lmtp(lab.lmtp, SENDER, [user], ODD[name])[0][0] == 250
    (mail,) = lab.inbox(user)
    (path,) = lab.stored(user)
    opened = lab.mailseal("cat", path, stdin=b"password\n")
    # Stored mail has LF or CRLF; IMAP sends CRLF for LF, and 0x80 for NUL, which is forbidden.
    sent = crlf(ODD[name])
    assert after_trace(crlf(opened.stdout)) == sent
    assert after_trace(mail) == sent.replace(b"\0", b"\x80")
    assert f",W={len(mail)}" in path
    with Pop3(lab.pop3, user, "password") as pop3:
        assert pop3.mail(1).removesuffix(b"\r\n") == crlf(opened.stdout).removesuffix(b"\r\n")


@pytest.mark.parametrize("name", ["dots", "8 bit", "long line", "NUL", "no header", "empty body"])
def test_odd_mails_by_smtp(lab: Lab, user: str, name: str) -> None:
    send(lab.smtp, SENDER, [user], ODD[name])
    lab.wait_delivered()
    (mail,) = lab.inbox(user)
    headers, _, body = mail.partition(b"\r\n\r\n")
    assert b"Received: from client.example.net" in headers
    sent = b"\r\n" + ODD[name]
    assert body == sent.partition(b"\r\n\r\n")[2].replace(b"\0", b"\x80")


def test_fifty_megabytes(lab: Lab, user: str) -> None:
    line = b"0123456789abcdefghijklmnopqrstuvwxyz" * 2 + b"\r\n"
    mail = HEADERS + line * (50_000_000 // len(line))
    send(lab.smtp, SENDER, [user], mail)
    lab.wait_delivered(timeout=120)
    (got,) = lab.inbox(user)
    assert got.endswith(mail[len(HEADERS) :])
    (path,) = lab.stored(user)
    assert os.path.getsize(path) > 49_000_000


def test_the_mails_of_cpython(lab: Lab, user: str) -> None:
    mails = cpython_mails()
    for mail in mails.values():
        assert send_lmtp(lab.lmtp, SENDER, [user], crlf(mail))[0][0] == 250
    got = lab.inbox(user)
    assert len(got) == len(mails)
    for (name, mail), received in zip(mails.items(), got, strict=True):
        sent = crlf(mail)
        assert after_trace(received) in (sent, sent + b"\r\n"), name


def test_a_wrong_password_is_refused(lab: Lab, user: str) -> None:
    for password in ("", "Password", "password ", "passwor", "x" * 400):
        with pytest.raises(Refused, match=r"AUTHENTICATIONFAILED"):
            Imap(lab.imap, user, password)
    with lab.login(user):
        pass
    with pytest.raises(Refused, match=r"AUTHENTICATIONFAILED"):  # also while a session is open
        Imap(lab.imap, user, "Password")
    with pytest.raises(Refused):
        Pop3(lab.pop3, user, "Password")
