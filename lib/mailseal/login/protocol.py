# SPDX-License-Identifier: MIT
"""The lines that the key agent and its clients exchange.

    VERB-OR-STATUS [SP NAME=HEX]... LF

Each line is one request or one answer.  A connection may be used for any number of
requests.  A value is the lower-case hex of its bytes, so that it may
contain any bytes; it may be empty.  Unknown fields are ignored.
Statuses: ok, wrong, unknown, temporary (reason), denied, error (class, message,
hint).

FAILURES
    A line that is not of this form, too long, or with a field twice raises UsageError.

Only built-in modules are imported here: the checkpassword program starts at each login.
"""

from __future__ import annotations

from mailseal.errors import UsageError

MAX_VALUE = 1 << 18
"""Longest value that anybody sends, in bytes.  The largest keyring, 64 pairs on P-521 and 64
slots with labels of 100 letters, takes 140 KB."""

MAX_REQUEST = 2 * MAX_VALUE + 65536
"""Longest request line in bytes: the largest value in hex, and the rest."""

MAX_ANSWER = 4 * MAX_REQUEST
"""Longest answer line in bytes."""

MAX_PAGE = 1 << 20
"""Bytes of a list after which the rest comes in another answer."""

Fields = dict[str, bytes]


def encode(word: str, fields: Fields) -> bytes:
    """One line, with its LF."""
    parts = [word, *(f"{name}={value.hex()}" for name, value in fields.items())]
    return " ".join(parts).encode("ascii") + b"\n"


def decode(line: bytes) -> tuple[str, Fields]:
    """The word and the fields of a line, with or without its LF."""
    try:
        words = line.removesuffix(b"\n").decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise UsageError("malformed line") from None
    fields: Fields = {}
    for part in words[1:]:
        name, equals, value = part.partition("=")
        if not name or not equals or name in fields:
            raise UsageError("malformed line")
        try:
            fields[name] = bytes.fromhex(value)
        except ValueError:
            raise UsageError("malformed line") from None
        if fields[name].hex() != value:  # fromhex forgives capitals and white space
            raise UsageError("malformed line")
    if not words[0].isidentifier():
        raise UsageError("malformed line")
    return words[0], fields
