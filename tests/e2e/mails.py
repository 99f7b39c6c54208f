# SPDX-License-Identifier: MIT
"""Mails to send: all sizes and line ends, from CPython's tests, and unusual ones."""

from __future__ import annotations

import functools
import glob
import random
import re
import sys

# Debian has the tests of the standard library in a separate package, libpython3.X-testsuite.
_CPYTHON = (
    f"/usr/lib/python3.{sys.version_info.minor}/test/test_email/data",
    "/usr/lib/python3.*/test/test_email/data",
    f"{sys.prefix}/lib/python3.*/test/test_email/data",
    f"{sys.base_prefix}/lib/python3.*/test/test_email/data",
    "/root/.pyenv/versions/3.*/lib/python3.*/test/test_email/data",
)
HEADERS = b"From: <eve@example.net>\r\nSubject: a mail\r\n\r\n"
SIZES = (0, 1, 2, 15, 16, 17, 1000, 8191, 8192, 8193, 65536, 1 << 20, 10_000_000)


@functools.cache
def cpython_mails() -> dict[str, bytes]:
    """Name and bytes of the mails in CPython's test.test_email.data, at least 40."""
    for pattern in _CPYTHON:
        for folder in sorted(glob.glob(pattern)):
            found = {}
            for path in sorted(glob.glob(f"{folder}/msg_*.txt")):
                with open(path, "rb") as stream:
                    found[path.rpartition("/")[2]] = stream.read()
            if len(found) >= 40:
                return found
    raise AssertionError(
        f"CPython's test mails are in none of {_CPYTHON}: run tests/bootstrap test"
    )


def crlf(mail: bytes) -> bytes:
    """Every line end as CRLF, as IMAP and POP3 deliver."""
    return re.sub(rb"(?<!\r)\n", b"\r\n", mail)


def of_size(size: int, *, newline: bytes = b"\n", eight_bit: bool = False) -> bytes:
    """A mail of exactly `size` bytes; the same at each call.  Lines of 76."""
    letters = bytes(range(33, 127)) + (bytes(range(0xA0, 0x100)) if eight_bit else b"")
    start = b"Subject: %d bytes" % size + newline + newline
    if size < len(start):
        return (b"x" * max(size - len(newline), 0) + newline)[-size:] if size else b""
    block = random.Random(size).choices(letters, k=7600)
    text = newline.join(bytes(block[i : i + 76]) for i in range(0, 7600, 76)) + newline
    whole = start + text * (size // len(text) + 1)
    cut = whole[: size - len(newline)]
    # The end may be half a line end, or become one with the following bytes.
    return re.sub(rb"\r\Z", b"y", cut) + newline


ODD = {
    "no header": b"\r\njust a body\r\n",
    "no header, no blank line": b"just text\r\n",
    "empty body": b"From: <eve@example.net>\r\nSubject: nothing\r\n\r\n",
    "headers only": b"From: <eve@example.net>\r\nSubject: no blank line\r\n",
    "dots": HEADERS + b".\r\n..\r\n...\r\n.x\r\nx.\r\n.\r\n",
    "8 bit": HEADERS + bytes(range(128, 256)) * 7 + b"\r\n",
    "8 bit header": b"From: <eve@example.net>\r\nSubject: Gr\xfc\xdfe \xe2\x82\xac\r\n\r\nx\r\n",
    "NUL": HEADERS + b"a\0b\0\0c\r\n\0\r\n",
    "control characters": HEADERS + bytes(b for b in range(1, 32) if b not in (10, 13)) + b"\r\n",
    "bare CR": HEADERS + b"one\rtwo\r\rthree\r\n",
    "bare LF": HEADERS + b"one\ntwo\n\nthree\r\n",
    "CR CR LF": HEADERS + b"one\r\r\ntwo\r\n",
    "long line": HEADERS + b"x" * 100_000 + b"\r\n" + b"y" * 100_000 + b"\r\n",
    "blank lines": HEADERS + b"\r\n" * 1000,
    "folded header": b"From: <eve@example.net>\r\nSubject: " + b"a\r\n b" * 500 + b"\r\n\r\nx\r\n",
    "looks sealed": b"CRYPTED\x03\x07\x02\0\0\0\x02" + b"\0" * 100 + b"\r\n",
}
