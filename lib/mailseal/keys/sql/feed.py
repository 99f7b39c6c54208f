# SPDX-License-Identifier: MIT
"""Lists the users whose keys were changed, in the order of the changes.

A position is the number and the stamp of a change.  If the database does not have this change, it
was lost (a standby that had not received it, an old backup), or deleted because it is old.  Then
the keys of all users may have changed.
"""

from __future__ import annotations

import dataclasses

from mailseal.errors import TemporaryError
from mailseal.keys.sql.database import Database
from mailseal.keys.sql.transaction import is_lock

_KEPT = 100_000
"""Number of changes that are kept."""


Names = list[str] | None
"""Users; None: all of them."""


@dataclasses.dataclass(frozen=True)
class Position:
    """The position after this change; 0 is before the first change."""

    number: int = 0
    stamp: bytes = b""


class Feed:
    """The changes of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> Position:
        """The position after all committed changes.  TemporaryError if the keys have moved."""
        row = self._database.row("SELECT last_change, stamp, moved_to FROM mailseal_state")
        if row is None:
            raise TemporaryError("the database has lost the tables of mailseal")
        if row[2]:
            raise TemporaryError(
                f"the keys have moved from this database to {row[2]}",
                hint="set keys.store in mailseal.yaml, and restart mailseal's services",
            )
        return Position(int(row[0]), bytes(row[1]))

    def knows(self, position: Position) -> bool:
        """Whether the position is part of this database's history."""
        if position.number == 0:
            return True
        found = self._database.row(
            "SELECT 1 FROM mailseal_changes WHERE number = %s AND stamp = %s",
            position.number,
            position.stamp,
        )
        return found is not None

    def since(self, position: Position) -> tuple[Position, Names, Names]:
        """The position now, the users whose keys were changed, and those that another agent has
        locked.  If changes were lost, the keys of all users may have changed."""
        now = self.now()
        if now == position:
            return now, [], []
        rows = self._database.rows(
            "SELECT name, stamp FROM mailseal_changes WHERE number > %s ORDER BY number",
            position.number,
        )
        names, locked, own = set(), set(), self._database.own_locks
        for column, value in rows:
            name, stamp = bytes(column).decode("utf-8", "replace"), bytes(value)
            names.add(name)
            if is_lock(stamp) and stamp not in own:
                locked.add(name)
            own.discard(stamp)
        known = self.knows(position)
        return now, _all_or(names) if known else None, _all_or(locked)

    def forget_old(self) -> None:
        """Delete old changes."""
        self._database.statement(
            "DELETE FROM mailseal_changes WHERE number < %s", self.now().number - _KEPT
        )


def _all_or(names: set[str]) -> Names:
    return None if "" in names else sorted(names)
