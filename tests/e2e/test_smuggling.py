# SPDX-License-Identifier: MIT
"""SMTP smuggling: only CR LF . CR LF ends a mail, so no second one can be hidden inside it."""

from __future__ import annotations

import re
import smtplib
import time

import pytest

from tests.e2e.mails import HEADERS, crlf
from tests.lab import ALICE, Imap, Lab
from tests.lab.smtp import raw_data, send_lmtp

SENDER = "eve@example.net"
PLAIN = "plain@example.org"
NOT_ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r\n.\n",
    b"\n.\r",
    b"\r\r\n.\r\r\n",
    b"\0\r\n.\0\r\n",
    b"\r\n.\0\r\n",
    b"\r\n\0.\r\n",
    b"\n\r\n.\n\r\n",
]


def forged(user: str) -> bytes:
    """A forged second mail after a false end."""
    return (
        b"mail FROM:<admin@example.org>\r\nrcpt TO:<%s>\r\ndata\r\n" % user.encode()
        + b"Subject: forged\r\n\r\nforged mail\r\n"
    )


@pytest.mark.parametrize("end", NOT_ENDS, ids=repr)
def test_a_false_end_does_not_split_a_mail(lab: Lab, user: str, end: bytes) -> None:
    body = b"before" + end + forged(user)
    replies = raw_data(lab.lmtp, SENDER, [user], HEADERS + body + b".\r\n")
    assert [code for code, _ in replies] == [250]
    (mail,) = lab.inbox(user)
    # Only a dot directly after CR LF is removed.
    expected = re.sub(rb"\r\n\.", b"\r\n", body)
    assert mail.endswith(crlf(HEADERS + expected).replace(b"\0", b"\x80"))


@pytest.mark.parametrize("end", NOT_ENDS, ids=repr)
def test_a_false_end_does_not_split_a_relayed_mail(behind_lab: Lab, end: bytes) -> None:
    """Mail for users who are not enrolled or have a Sieve script is relayed to Dovecot's LMTP."""
    before = len(behind_lab.stored(ALICE))
    replies = raw_data(
        behind_lab.lmtp, SENDER, [PLAIN], HEADERS + b"before" + end + forged(ALICE) + b".\r\n"
    )
    assert [code for code, _ in replies] == [250]
    with Imap(behind_lab.imap, PLAIN, "password") as imap:
        assert imap.bodies()[-1].endswith(b"forged mail\r\n")
    assert len(behind_lab.stored(ALICE)) == before


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_the_true_end_is_found_for_any_split(lab: Lab, user: str, size: int) -> None:
    mail = HEADERS + b"one\r\n..two\r\n"
    with smtplib.LMTP(*lab.lmtp, local_hostname="client.example.net") as client:
        client.ehlo()
        client.docmd("MAIL", f"FROM:<{SENDER}>")
        client.docmd("RCPT", f"TO:<{user}>")
        client.docmd("DATA")
        assert client.sock is not None
        client.sock.setsockopt(6, 1, 1)  # TCP_NODELAY: each piece is a packet
        data = mail + b".\r\n"
        for start in range(0, len(data), size):
            client.sock.sendall(data[start : start + size])
            time.sleep(0.0005)
        assert client.getreply()[0] == 250
    assert lab.inbox(user)[0].endswith(HEADERS + b"one\r\n.two\r\n")


def test_a_mail_of_dots_only(lab: Lab, user: str) -> None:
    assert send_lmtp(lab.lmtp, SENDER, [user], b".\r\n")[0][0] == 250
    assert lab.inbox(user)[0].endswith(b"\r\n.\r\n")


def test_commands_after_the_true_end_are_executed(lab: Lab, user: str) -> None:
    replies = raw_data(
        lab.lmtp, SENDER, [user], HEADERS + b"x\r\n.\r\nNOOP\r\nRCPT TO:<x@example.org>\r\n"
    )
    assert [code for code, _ in replies] == [250, 250, 503]
    assert len(lab.inbox(user)) == 1


def test_through_postfix_no_mail_is_split_that_postfix_took_as_one(lab: Lab, user: str) -> None:
    """However Postfix treats false ends, exactly the mails in its queue arrive."""
    lab.postfix.wait_logged()
    before = len(re.findall(r"message-id=", lab.postfix.log_text()))
    with smtplib.SMTP(*lab.smtp, local_hostname="client.example.net") as client:
        client.ehlo()
        client.docmd("MAIL", f"FROM:<{SENDER}>")
        client.docmd("RCPT", f"TO:<{user}>")
        client.docmd("DATA")
        client.send(HEADERS + b"before\r.\r\n" + b"\r\n..\r\n" + b"after\r.\r" + b"\r\n.\r\n")
        assert client.getreply()[0] == 250
    lab.wait_delivered()
    queued = len(re.findall(r"message-id=", lab.postfix.log_text())) - before
    assert len(lab.inbox(user)) == queued == 1
