# SPDX-License-Identifier: MIT
"""The tables, the steps that create them, and the rights of the roles.

    mailseal_schema        version of the tables
    mailseal_state         one row: number and stamp of the last change; number of the last
                           `lock --all`; the store to which the keys have moved, else empty
    mailseal_changes       number, stamp, name: the user whose keys were changed, or who was locked
    mailseal_keyrings      name, revision, body: as in the file (docs/formats.md); number and
                           stamp of the transaction that wrote it
    mailseal_public_keys   name; state: enrolled, suspended or withdrawn; body: as in the file;
                           number of the change.  Rows are never deleted: a replica must see that
                           a user was removed
    mailseal_hosts         id, name; lease: seconds; applied: number up to which the host has all
                           changes on disk; beat, seen: counter and time of the last sign of life

CONTRACT
    migrate() creates the tables for this version, or upgrades them and keeps their content.  It
    may be run again, also after it was interrupted.  Never change a step: add one.
    migrate() and grant() hold a lock, so of two hosts one waits for the other.  Without it,
    PostgreSQL refuses one of two equal statements, and an older mailseal sets the version back.

FAILURES
    TemporaryError: the lock stays taken.  NewerFormat: the tables are of a newer mailseal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager

from mailseal.errors import NewerFormat, TemporaryError, UsageError
from mailseal.keys.sql.database import SCHEMA_VERSION, Database

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE IF NOT EXISTS mailseal_state (one smallint PRIMARY KEY, "
        "last_change bigint NOT NULL, stamp {bytes} NOT NULL, locked bigint NOT NULL, "
        "moved_to varchar(255) NOT NULL){end}",
        "CREATE TABLE IF NOT EXISTS mailseal_changes (number bigint PRIMARY KEY, "
        "stamp {bytes} NOT NULL, name {name} NOT NULL){end}",
        "CREATE TABLE IF NOT EXISTS mailseal_keyrings (name {name} PRIMARY KEY, "
        "revision bigint NOT NULL, body {bytes} NOT NULL, change_number bigint NOT NULL, "
        "stamp {bytes} NOT NULL){end}",
        "CREATE TABLE IF NOT EXISTS mailseal_public_keys (name {name} PRIMARY KEY, "
        "state varchar(16) NOT NULL, body {bytes}, change_number bigint NOT NULL){end}",
        "CREATE INDEX IF NOT EXISTS mailseal_public_keys_change "
        "ON mailseal_public_keys (change_number)",
        "CREATE TABLE IF NOT EXISTS mailseal_hosts (id varchar(64) PRIMARY KEY, "
        "name varchar(255) NOT NULL, lease integer NOT NULL, applied bigint NOT NULL, "
        "beat bigint NOT NULL, seen timestamp(6) NOT NULL){end}",
    ),
)

_LOCK = "\ntables"
"""No user has this name: it has a control character."""

_KEYS_ROLE = {
    "mailseal_schema": "SELECT",
    "mailseal_state": "SELECT, UPDATE",
    "mailseal_changes": "SELECT, INSERT, DELETE",
    "mailseal_keyrings": "SELECT, INSERT, UPDATE, DELETE",
    "mailseal_public_keys": "SELECT, INSERT, UPDATE, DELETE",
    "mailseal_hosts": "SELECT, DELETE",
}
_REPLICA_ROLE = {
    "mailseal_schema": "SELECT",
    "mailseal_state": "SELECT",
    "mailseal_changes": "SELECT",
    "mailseal_public_keys": "SELECT",
    "mailseal_hosts": "SELECT, INSERT, UPDATE",
}


def migrate(database: Database) -> int:
    """Create or upgrade the tables; returns the old version, 0 for none.  Accepts any schema."""
    with _locked(database):
        return _migrate(database)


def _locked(database: Database) -> AbstractContextManager[None]:
    refusal = TemporaryError(
        f"the tables in {database.address} are being changed by another host",
        hint="run `mailseal init --store` again when it has ended there",
    )
    return database.locked(_LOCK, refusal)


def _migrate(database: Database) -> int:
    types = database.dialect
    _run(
        database,
        f"CREATE TABLE IF NOT EXISTS mailseal_schema (version integer NOT NULL){types.table_end}",
    )
    row = database.row("SELECT version FROM mailseal_schema")
    found = 0 if row is None else int(row[0])
    if row is None:
        _run(database, "INSERT INTO mailseal_schema (version) VALUES (0)")
    if found > SCHEMA_VERSION:
        raise NewerFormat(
            f"{database.address} has tables of a newer mailseal", hint="upgrade mailseal"
        )
    for number, step in enumerate(_STEPS[found:], found + 1):
        for text in step:
            _run(
                database,
                text.format(name=types.name_type, bytes=types.bytes_type, end=types.table_end),
            )
        if number == 1 and database.row("SELECT 1 FROM mailseal_state") is None:
            _run(
                database,
                "INSERT INTO mailseal_state (one, last_change, stamp, locked, moved_to) "
                "VALUES (1, 0, %s, 0, '')",
                b"",
            )
        _run(database, "UPDATE mailseal_schema SET version = %s", number)
    return found


def grant(database: Database, keys_role: str, replica_role: str) -> None:
    """Give both roles the rights that they need.  The roles must exist."""
    with _locked(database):
        for role, rights in ((keys_role, _KEYS_ROLE), (replica_role, _REPLICA_ROLE)):
            for name in _grantees(database, role):
                for table, words in rights.items():
                    _run(database, f"GRANT {words} ON {table} TO {name}")


def _grantees(database: Database, role: str) -> Sequence[str]:
    """The role in SQL; in MariaDB there can be one for each host that it connects from."""
    if not re.fullmatch(r"[\w.-]+", role):
        raise UsageError(f"{role} is not the name of a database role")
    if database.address.kind == "postgresql":
        found = database.rows("SELECT 1 FROM pg_roles WHERE rolname = %s", role)
        names = [f'"{role}"'] * len(found)
    else:
        found = database.rows("SELECT Host FROM mysql.user WHERE User = %s", role)
        names = [f"'{role}'@'{_text(host)}'" for (host,) in found]
    if not names:
        raise TemporaryError(
            f"the database has no role {role}", hint="create it first: see docs/several-hosts.md"
        )
    return names


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _run(database: Database, text: str, *values: object) -> None:
    database.statement(text, *values)
