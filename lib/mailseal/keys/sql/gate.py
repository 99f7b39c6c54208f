# SPDX-License-Identifier: MIT
"""Closes a database for changes when its keys have moved; every transaction checks this."""

from __future__ import annotations

from mailseal.keys.sql.database import Database


class SqlGate:
    """See Gate in keys/moving.py."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self, where: str) -> None:
        """Waits for the current transaction; agents and replicas log why they stop."""
        self._database.statement("UPDATE mailseal_state SET moved_to = %s", where)

    def is_closed(self) -> bool:
        """Whether the keys have moved away."""
        return self._database.row("SELECT 1 FROM mailseal_state WHERE moved_to <> ''") is not None

    def open(self) -> None:
        """Allow changes again."""
        self._database.statement("UPDATE mailseal_state SET moved_to = ''")
