# SPDX-License-Identifier: MIT
"""Reads passwords from the terminal, or as lines of standard input.

Passwords are never arguments or environment variables: other users could see those.
A line ends with LF or CR LF; everything else in it is part of the password.
With `null` each password ends with NUL instead, as PostfixAdmin writes it.  No more
bytes are read than needed, and the end of file is not needed.

FAILURES
    UsageError: a line is missing or too long, or a new password was typed differently.
"""

from __future__ import annotations

import os
import sys

from mailseal.errors import UsageError

# The agent checks the length of passwords; this only limits the length of a line.
_MAX_LINE = 4096


class Passwords:
    """One source of passwords for one command."""

    def __init__(self, *, from_stdin: bool, null: bool = False) -> None:
        self._end = b"\0" if null else b"\n"
        self._typed = not (from_stdin or null) and sys.stdin is not None and sys.stdin.isatty()

    def ask(self, what: str, *, new: bool = False) -> bytes:
        """One password.  A new one is asked for twice on a terminal."""
        if not self._typed:
            return _line(what, self._end)
        password = _type(f"{what}: ")
        if new and _type(f"{what} again: ") != password:
            raise UsageError("the two passwords differ")
        return password


def _type(prompt: str) -> bytes:
    import getpass

    try:
        return getpass.getpass(prompt).encode("utf-8", "surrogateescape")
    except EOFError:
        raise UsageError("no password was typed") from None


def _line(what: str, end: bytes) -> bytes:
    """Read one line byte by byte, so that the rest stays for the next call."""
    line = bytearray()
    while True:
        byte = os.read(0, 1)
        if byte in (b"", end):
            break
        line += byte
        if len(line) > _MAX_LINE:
            raise UsageError(f"the {what} on standard input is too long")
    if not byte and not line:
        raise UsageError(f"the {what} is missing on standard input")
    return bytes(line.removesuffix(b"\r") if end == b"\n" else line)
