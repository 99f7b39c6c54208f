# SPDX-License-Identifier: MIT
"""The mailseal command of a version whose tables have one more step.

    python -m tests.unit.tables.next_version [--killed-at NUMBER] ARGUMENT…

--killed-at: it is killed before this statement that changes something, counted from 1.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from mailseal.admin import cli
from mailseal.keys.sql import database, schema

VERSION = database.SCHEMA_VERSION + 1
STEP = (
    "ALTER TABLE mailseal_keyrings ADD COLUMN IF NOT EXISTS made_by varchar(16)",
    "UPDATE mailseal_keyrings SET made_by = 'version 1' WHERE made_by IS NULL",
    "CREATE TABLE IF NOT EXISTS mailseal_more (name {name} PRIMARY KEY, body {bytes}){end}",
)


def install(change: Any = setattr) -> None:
    """Make this process the next version.  `change`: that of pytest's monkeypatch undoes it."""
    change(schema, "_STEPS", (*schema._STEPS, STEP))
    for module in (schema, database):
        change(module, "SCHEMA_VERSION", VERSION)


def kill_at(number: int) -> None:
    """Kill this process before it sends this statement."""
    real = database.Database.statement
    sent = 0

    def statement(self: database.Database, text: str, *values: Any) -> int:
        nonlocal sent
        sent += 1
        if sent == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, text, *values)

    database.Database.statement = statement  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    arguments = sys.argv[1:]
    if arguments[0] == "--killed-at":
        kill_at(int(arguments[1]))
        del arguments[:2]
    sys.exit(cli.main(["mailseal", *arguments]))
