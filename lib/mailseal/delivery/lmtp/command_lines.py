# SPDX-License-Identifier: MIT
"""Splits the client's input into command lines that end with CR LF (RFC 5321, 2.3.8).

CONTRACT
    A line is returned when it is complete.  A line longer than MAX_LINE is discarded
    as it arrives, so at most MAX_LINE bytes are held in addition to the last input
    of add().

FAILURES
    Refused (500) at the end of a line that is too long;
    EndlessLine after more than MAX_GARBAGE bytes without a line end.
"""

from __future__ import annotations

from mailseal.delivery.lmtp.syntax import Refused

MAX_LINE = 4096
MAX_GARBAGE = 1 << 20


class EndlessLine(Exception):
    """A line without an end; the connection must be closed."""


class CommandLines:
    """Splits bytes into lines."""

    __slots__ = ("_at", "_data", "_garbage")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._garbage = 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def add(self, data: bytes) -> None:
        """Append bytes from the client."""
        rest = self.take()
        self._data = rest + data if rest else data

    def take(self) -> bytes:
        """All bytes that are stored."""
        data, at = self._data, self._at
        self._data, self._at = b"", 0
        return data[at:]

    def next(self) -> bytes | None:
        """The next line without its end; None if it is not complete."""
        start = self._at
        end = self._data.find(b"\r\n", start)
        size = (end if end >= 0 else len(self._data)) - start
        if size <= MAX_LINE and not (self._garbage and end >= 0):
            if end < 0:
                return None
            self._at = end + 2
            return self._data[start:end]
        # Too long: discard all but the last byte, which may be the CR of the line end.
        skipped = size if end >= 0 else size - 1
        self._at += skipped
        self._garbage += skipped
        if self._garbage > MAX_GARBAGE:
            raise EndlessLine
        if end < 0:
            return None
        self._at += 2
        self._garbage = 0
        raise Refused(500, "5.5.2", "line too long")
