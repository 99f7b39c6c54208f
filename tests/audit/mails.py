# SPDX-License-Identifier: MIT
"""Mails with a unique word in each part, in all encodings of mail."""

from __future__ import annotations

import base64
import binascii

from tests.audit.words import Owner

_LARGE = 60_000


def letter(owner: Owner, to: str, *, number: int = 1, large: bool = False) -> bytes:
    """A mail with a unique word in each part; lines end with CRLF.

    `large`: over 8 KB in each part, which Dovecot decrypts into a temporary file.
    """
    word = owner.word
    times = _LARGE // 80 if large else 12
    answer = f"In-Reply-To: <1.{word('References')}@example.net>\r\n" if number > 1 else ""
    b_word = base64.b64encode(f"Grüße, {word('subject in B words')}".encode()).decode()
    q_word = f"f=C3=BCr_{word('subject in Q words')}"
    head = (
        f"From: {word('From name')} Müller <{sender(owner)}>\r\n"
        f'To: "{word("To name")}" <{to}>\r\n'
        f"Cc: <{word('Cc address')}@example.net>\r\n"
        f"Reply-To: <{word('Reply-To')}@example.net>\r\n"
        f"Subject: {word('subject')} {number}\r\n =?UTF-8?B?{b_word}?=\r\n =?utf-8?Q?{q_word}?=\r\n"
        f"Message-ID: <{number}.{word('Message-ID')}@example.net>\r\n"
        f"{answer}References: <1.{word('References')}@example.net>\r\n"
        f"List-Id: <{word('List-Id')}.example.net>\r\n"
        f"Comments: {word('Comments')}\r\n"
        f"X-Audit: {word('X- header')}\r\n"
        f"Date: Thu, 01 Jan 2026 12:0{number}:00 +0000\r\n"
        "MIME-Version: 1.0\r\n"
        'Content-Type: multipart/mixed; boundary="=-outer"\r\n\r\n'
    )
    parts = [
        _part("text/plain; charset=us-ascii", "7bit", _text(word("body 7bit"), times)),
        _part("text/plain; charset=utf-8", "8bit", _text(word("body 8bit") + " ü", times)),
        _part("text/plain; charset=utf-8", "base64", _text(word("body base64") + " ü", times)),
        _part(
            "text/plain; charset=utf-8",
            "quoted-printable",
            _text(word("body quoted-printable") + " ü", times),
        ),
        _part(
            "text/plain; charset=utf-16le",
            "base64",
            _text(word("body UTF-16"), times).decode().encode("utf-16-le"),
        ),
        _part(
            "text/html; charset=utf-8",
            "8bit",
            b"<html><body><p>%s</p></body></html>" % _text(word("body HTML"), times),
        ),
        _part(
            "application/octet-stream",
            "base64",
            b"\0\1\2" + _text(word("attachment binary"), times),
            f'attachment; filename="{word("attachment name")}.bin"',
        ),
        _part(
            "text/csv; charset=utf-8",
            "base64",
            _text(word("attachment text") + ";1", times),
            f"attachment; filename*=UTF-8''f%C3%BCr%20{word('attachment name RFC 2231')}.csv",
        ),
        _part(
            "message/rfc822",
            "8bit",
            f"Subject: {word('attached mail' + chr(39) + 's subject')}\r\n\r\n".encode()
            + _text(word("attached mail's body"), times),
        ),
    ]
    return head.encode() + b"".join(parts) + b"--=-outer--\r\n"


def sender(owner: Owner) -> str:
    """The envelope sender, with a word too."""
    return f"{owner.word('From address')}@example.net"


def saved(owner: Owner) -> bytes:
    """The mail that a client saves in Sent."""
    return b"Subject: a copy\r\nFrom: <me@example.org>\r\n\r\n%s" % _text(
        owner.word("saved by the client"), 200
    )


def _text(word: str, times: int) -> bytes:
    """Lines with the word at different positions, so that each alignment occurs."""
    lines = (f"{'+' * (n % 7)} line {n} says {word} and goes on" for n in range(times))
    return "".join(f"{line}\r\n" for line in lines).encode()


def _part(kind: str, encoding: str, content: bytes, disposition: str = "inline") -> bytes:
    if encoding == "base64":
        content = base64.encodebytes(content).replace(b"\n", b"\r\n")
    elif encoding == "quoted-printable":
        soft = binascii.b2a_qp(content.replace(b"\r\n", b"\n"), istext=True)
        content = soft.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return (
        f"--=-outer\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n"
        f"Content-Disposition: {disposition}\r\n\r\n".encode()
        + content
        + b"\r\n"
    )
