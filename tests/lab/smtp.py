# SPDX-License-Identifier: MIT
"""Sends mail by SMTP and LMTP, without changing any bytes.

smtplib changes line ends, and for LMTP it reads only one reply after DATA, instead
of one for each recipient.
"""

from __future__ import annotations

import re
import smtplib
from collections.abc import Sequence

Reply = tuple[int, bytes]


class Rejected(Exception):
    """The server has refused the mail or a recipient; `code` and `text` are its reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply[0]} {reply[1].decode(errors='replace')}")
        self.code, self.text = reply


def send(address: tuple[str, int], sender: str, recipients: Sequence[str], mail: bytes) -> bytes:
    """Send one mail by SMTP to all recipients; returns the last reply.  Raises Rejected."""
    with smtplib.SMTP(*address, local_hostname="client.example.net", timeout=120) as client:
        client.ehlo()
        _envelope(client, sender, recipients, need_all=True)
        return _expect(_data(client, dot_stuffed(mail)), 250)[1]


def send_lmtp(
    address: tuple[str, int], sender: str, recipients: Sequence[str], mail: bytes
) -> list[Reply]:
    """Send one mail by LMTP; returns one reply for each recipient, of any kind."""
    with smtplib.LMTP(*address, local_hostname="client.example.net") as client:
        client.ehlo()
        replies = _envelope(client, sender, recipients, need_all=False)
        taken = [index for index, (code, _) in enumerate(replies) if code == 250]
        if taken:
            first = _data(client, dot_stuffed(mail))
            for index in taken:
                replies[index] = first if index == taken[0] else client.getreply()
        return replies


def raw_data(
    address: tuple[str, int], sender: str, recipients: Sequence[str], data: bytes
) -> list[Reply]:
    """Send exactly `data` after DATA, by LMTP; returns all replies including that to QUIT.

    For data that a correct client would never send.
    """
    with smtplib.LMTP(*address, local_hostname="client.example.net") as client:
        client.ehlo()
        _envelope(client, sender, recipients, need_all=True)
        _expect(client.docmd("DATA"), 354)
        client.send(data + b"QUIT\r\n")
        replies: list[Reply] = []
        while not replies or replies[-1][0] != 221:
            replies.append(client.getreply())
        client.close()
        return replies[:-1]


def dot_stuffed(mail: bytes) -> bytes:
    """The mail as it is sent after DATA.  Only CRLF ends a line (RFC 5321, 2.3.8)."""
    ended = mail if mail.endswith(b"\r\n") or not mail else mail + b"\r\n"
    return re.sub(rb"(\A|\r\n)\.", rb"\1..", ended) + b".\r\n"


def _envelope(
    client: smtplib.SMTP, sender: str, recipients: Sequence[str], *, need_all: bool
) -> list[Reply]:
    utf8 = [] if all(name.isascii() for name in (sender, *recipients)) else [" SMTPUTF8"]
    client.command_encoding = "utf-8"
    _expect(client.docmd("MAIL", f"FROM:<{sender}> BODY=8BITMIME{''.join(utf8)}"), 250)
    replies = [client.docmd("RCPT", f"TO:<{name}>") for name in recipients]
    if need_all:
        for reply in replies:
            _expect(reply, 250)
    return replies


def _data(client: smtplib.SMTP, stuffed: bytes) -> Reply:
    _expect(client.docmd("DATA"), 354)
    client.send(stuffed)
    return client.getreply()


def _expect(reply: Reply, code: int) -> Reply:
    if reply[0] != code:
        raise Rejected(reply)
    return reply
