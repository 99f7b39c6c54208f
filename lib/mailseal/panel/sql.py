# SPDX-License-Identifier: MIT
"""Writes a hash to one row of a table: SQLite, PostgreSQL (psycopg 3) or MariaDB (PyMySQL).

The values are parameters of the query, never part of its text.  If the query does not
change exactly one row, it is rolled back.

FAILURES
    NoSuchUser (no row), Damaged (several rows), Unreachable: certainly nothing has changed.
    TemporaryError: it is not known.  The connection broke during COMMIT; or, with MariaDB, during
    the query: some of its tables (MyISAM, Aria) have no transactions, and keep what they have done.
"""

from __future__ import annotations

import re
from typing import Any

from mailseal.errors import (
    EX_UNAVAILABLE,
    ConfigError,
    Damaged,
    MailsealError,
    NoSuchUser,
    TemporaryError,
)
from mailseal.panel.configuration import Database

_PATIENCE = 20
"""Seconds to connect, and to wait for a lock on the row."""


_INTERRUPTED = (1053, 1317, 1927)
"""Errors of MariaDB after which a query may have been done in part."""

_NOT_ROLLED_BACK = 1196
"""MariaDB's warning after a rollback, if a table without transactions was changed."""


class Unreachable(MailsealError):
    """The database has not made the change."""

    exit_status = EX_UNAVAILABLE


def write(database: Database, user: str, hashed: str) -> None:
    """Run the query of the configuration for one user."""
    query = database.query
    if database.kind == "sqlite":
        query = re.sub(r"%\((user|hash)\)s", r":\1", query)  # SQLite's syntax for parameters
    if not database.prefix:
        hashed = hashed.partition("}")[2]
    try:
        connection = _connect(database)
    except MailsealError:
        raise
    except Exception as exc:
        raise Unreachable(f"cannot reach the database ({type(exc).__name__})") from None
    try:
        try:
            cursor = connection.cursor()
            cursor.execute(query, {"user": user, "hash": hashed})
            rows = cursor.rowcount
        except Exception as exc:
            if database.kind == "mariadb" and _may_have_run(exc):
                raise _unknown(exc) from None
            # Without its text, which may contain the parameters.
            raise Unreachable(f"the database refused the query ({type(exc).__name__})") from None
        if rows == 0:
            raise NoSuchUser(f"the database does not contain {user}")
        if rows != 1:
            if database.kind == "mariadb" and not _rolls_back(connection, cursor):
                raise TemporaryError(f"the query has changed {rows} rows, without a transaction")
            raise Damaged(f"the query would change {rows} rows")
        try:
            connection.commit()
        except Exception as exc:
            raise _unknown(exc) from None
    finally:
        _close(connection)


def _unknown(exc: Exception) -> TemporaryError:
    return TemporaryError(
        f"it is not known whether the database has the new hash ({type(exc).__name__})"
    )


def _may_have_run(exc: Exception) -> bool:
    """Whether the query may have been done, although MariaDB has not confirmed it.

    Numbers from 2000 to 2999 are those of the client: no answer arrived.
    """
    import pymysql

    if not isinstance(exc, (pymysql.err.Error, OSError)):
        return False  # the query was not sent
    number = exc.args[0] if exc.args and isinstance(exc.args[0], int) else 0
    of_server = isinstance(exc, pymysql.err.Error) and number >= 1000
    return not of_server or 2000 <= number < 3000 or number in _INTERRUPTED


def _rolls_back(connection: Any, cursor: Any) -> bool:
    """Roll back; returns whether MariaDB has undone all changes."""
    try:
        connection.rollback()
        cursor.execute("SHOW WARNINGS")
        return all(row[1] != _NOT_ROLLED_BACK for row in cursor.fetchall())
    except Exception:
        return False


def _close(connection: Any) -> None:
    """Roll back what was not committed."""
    try:
        connection.close()
    except Exception:
        return  # the connection is broken, so the server rolls back


def _connect(database: Database) -> Any:
    if database.kind == "sqlite":
        import sqlite3

        return sqlite3.connect(f"file:{_quoted(database.path)}?mode=rw", _PATIENCE, uri=True)
    try:
        if database.kind == "postgresql":
            import psycopg

            options = f"-c lock_timeout={_PATIENCE}s -c statement_timeout={_PATIENCE}s"
            given = {"connect_timeout": _PATIENCE, "options": options, **database.connect}
            return psycopg.connect(**given)
        import pymysql
    except ImportError:
        package = {"postgresql": "python3-psycopg", "mariadb": "python3-pymysql"}[database.kind]
        raise ConfigError(
            f"{database.kind} needs the package {package}", hint=f"apt-get install {package}"
        ) from None
    # FOUND_ROWS: count rows that match, not rows that change.
    flag = pymysql.constants.CLIENT.FOUND_ROWS
    timeouts = {
        "connect_timeout": _PATIENCE,
        "read_timeout": 2 * _PATIENCE,
        "write_timeout": 2 * _PATIENCE,
        "init_command": f"SET innodb_lock_wait_timeout = {_PATIENCE}",
        "charset": "utf8mb4",
    }
    return pymysql.connect(client_flag=flag, **{**timeouts, **database.connect})


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
