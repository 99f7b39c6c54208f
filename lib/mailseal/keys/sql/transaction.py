# SPDX-License-Identifier: MIT
"""A transaction that changes keys: its number, and its stamp."""

from __future__ import annotations

import os
from typing import Any

Row = tuple[Any, ...]

_RANDOM = 8
_LOCKS = b"L"


class Write:
    """A transaction.  `change` is its number.  `stamp` distinguishes it from another transaction
    with the same number, if the database has lost this one."""

    def __init__(self, cursor: Any, change: int, stamp: bytes) -> None:
        self._cursor = cursor
        self.change = change
        self.stamp = stamp

    def execute(self, text: str, *values: Any) -> int:
        """Run a statement; returns the number of rows found."""
        self._cursor.execute(text, values)
        return int(self._cursor.rowcount)

    def row(self, text: str, *values: Any) -> Row | None:
        """The first row."""
        self._cursor.execute(text, values)
        found = self._cursor.fetchone()
        return None if found is None else tuple(found)


def new_stamp(*, locks: bool) -> bytes:
    """Eight random bytes.  A ninth one says that it is a mailseal lock, and changes no keys."""
    return os.urandom(_RANDOM) + (_LOCKS if locks else b"")


def is_lock(stamp: bytes) -> bool:
    """Whether the transaction is a mailseal lock."""
    return stamp[_RANDOM:] == _LOCKS
