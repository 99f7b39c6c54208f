# SPDX-License-Identifier: MIT
"""Connections to the database: one for each thread, opened when needed and again when lost.

CONTRACT
    rows() is one reading statement; it is tried once more on a new connection if the old one is
    broken.  write() is one transaction: it has a number, larger than those of all transactions
    that were committed before, and is committed when the block ends, so that it survives a
    crash.  Numbers are in the order of the commits: the row that counts them stays locked until
    then.  locked() keeps others out until the block ends or the connection breaks; then the
    writes in the block fail, because they use the same connection.
    While the database is down, one thread at a time tries to reach it, every _PAUSE seconds; the
    others fail at once.  So logins that do not need it do not wait.

FAILURES
    StoreUnreachable: nothing is known, and for a write neither whether it was committed.
    TemporaryError: BUSY, another schema, or the keys have moved to another store.
    Errors never contain values of a statement.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from mailseal.database_address import Address
from mailseal.errors import (
    Conflict,
    MailsealError,
    NewerFormat,
    StoreUnreachable,
    TemporaryError,
)
from mailseal.keys.sql import dialect as dialects
from mailseal.keys.sql.dialect import STATEMENT_WITHIN, Meaning
from mailseal.keys.sql.patience import Patience

SCHEMA_VERSION = 1

_PAUSE = 1.0
_PATIENCE = STATEMENT_WITHIN + 5.0

Row = tuple[Any, ...]


class Taken(Exception):
    """A row with this key exists."""


class Write:
    """A transaction.  `change` is its number, `stamp` eight random bytes that tell it from a
    transaction with the same number in a database that has lost it."""

    def __init__(self, cursor: Any, change: int, stamp: bytes) -> None:
        self._cursor = cursor
        self.change = change
        self.stamp = stamp

    def execute(self, text: str, *values: Any) -> int:
        """How many rows were found."""
        self._cursor.execute(text, values)
        return int(self._cursor.rowcount)

    def row(self, text: str, *values: Any) -> Row | None:
        """The first row."""
        self._cursor.execute(text, values)
        found = self._cursor.fetchone()
        return None if found is None else tuple(found)


class Database:
    """One database, for any number of threads."""

    def __init__(
        self,
        address: Address,
        *,
        password: str | None = None,
        any_schema: bool = False,
    ) -> None:
        self.address = address
        self.dialect = dialects.of(address)
        self._password = password
        self._any_schema = any_schema
        self._mine = threading.local()
        self._patience = Patience(_PATIENCE)
        self._trying = threading.Lock()
        self._down_until: float | None = None
        self._why = ""

    def rows(self, text: str, *values: Any) -> list[Row]:
        """All rows of one statement."""
        for attempt in (1, 2):
            connection = self.connection()
            try:
                with self._asking(connection), connection.cursor() as cursor:
                    cursor.execute(text, values)
                    return [tuple(row) for row in cursor.fetchall()]
            except StoreUnreachable:
                if attempt == 2 or self._is_holding:
                    raise
        raise AssertionError

    def row(self, text: str, *values: Any) -> Row | None:
        """The first row of one statement."""
        found = self.rows(text, *values)
        return found[0] if found else None

    def statement(self, text: str, *values: Any) -> int:
        """One statement that changes rows but no keys; how many rows were found."""
        connection = self.connection()
        with self._asking(connection), connection.cursor() as cursor:
            cursor.execute(text, values)
            return int(cursor.rowcount)

    @contextlib.contextmanager
    def write(self, user: str, count: int = 1) -> Iterator[Write]:
        """A transaction with `count` numbers, of which Write has the last.

        `user` is whose keys it changes, for the other agents; "" for everybody.
        """
        connection, write = self._begin(user, count)
        try:
            with self._asking(connection):
                yield write
                self.dialect.notify(write._cursor)
                write.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise

    def _begin(self, user: str, count: int) -> tuple[Any, Write]:
        for attempt in (1, 2):
            connection = self.connection()
            try:
                with self._asking(connection):
                    return connection, self._numbered(connection, user, count)
            except StoreUnreachable:
                if attempt == 2 or self._is_holding:
                    raise
            except BaseException:
                self._roll_back(connection)
                raise
        raise AssertionError

    def _numbered(self, connection: Any, user: str, count: int) -> Write:
        cursor = connection.cursor()
        stamp = os.urandom(8)
        write = Write(cursor, 0, stamp)
        write.execute("BEGIN")
        moved = write.execute(
            "UPDATE mailseal_state SET last_change = last_change + %s, stamp = %s "
            "WHERE moved_to = ''",
            count,
            stamp,
        )
        row = write.row("SELECT last_change, moved_to FROM mailseal_state")
        if row is None or not moved:
            where = "" if row is None else f" to {row[1]}"
            raise TemporaryError(
                f"the keys have moved from this database{where}",
                hint="set keys.store in mailseal.yaml, and restart mailseal's services",
            )
        write.change = int(row[0])
        write.execute(
            "INSERT INTO mailseal_changes (number, stamp, name) VALUES (%s, %s, %s)",
            write.change,
            stamp,
            user.encode(),
        )
        return write

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """See the contract; a thread may take it again."""
        held: list[str] = self._mine.__dict__.setdefault("held", [])
        if name in held:
            yield
            return
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        connection = self._lock(name, number)
        held.append(name)
        try:
            yield
        finally:
            held.remove(name)
            with (
                contextlib.suppress(MailsealError),
                self._asking(connection),
                connection.cursor() as cursor,
            ):
                self.dialect.unlock(cursor, number)

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """All of the block on one connection, so with one server; it fails if that is lost."""
        self.connection()
        held: list[str] = self._mine.__dict__.setdefault("held", [])
        held.append("")
        try:
            yield
        finally:
            held.remove("")

    def _lock(self, name: str, number: int) -> Any:
        for attempt in (1, 2):
            connection = self.connection()
            try:
                with self._asking(connection), connection.cursor() as cursor:
                    if not self.dialect.lock(cursor, number):
                        raise TemporaryError(f"the keys of {name} are being changed just now")
                return connection
            except StoreUnreachable:
                if attempt == 2 or self._is_holding:
                    raise
        raise AssertionError

    def wait(self, seconds: float) -> None:
        """Until something has changed, or for this time; later than that at the latest."""
        connection = self.connection()
        with self._translated(connection):
            if not getattr(self._mine, "listening", False):
                with connection.cursor() as cursor:
                    self.dialect.listen(cursor)
                self._mine.listening = True
                return
            self.dialect.wait(connection, seconds)

    @property
    def _is_holding(self) -> bool:
        """A new connection would not have the locks of the old one."""
        return bool(getattr(self._mine, "held", None))

    def connection(self) -> Any:
        """This thread's."""
        found: Any = getattr(self._mine, "connection", None)
        if found is None:
            if self._is_holding:
                raise StoreUnreachable("the connection to the database was lost during a change")
            found = self._open()
            self._mine.connection = found
            self._mine.listening = False
        return found

    def close(self) -> None:
        """This thread's connection."""
        connection = getattr(self._mine, "connection", None)
        self._mine.connection = None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def _open(self) -> Any:
        if self._down_until is None:
            return self._try()
        if time.monotonic() < self._down_until or not self._trying.acquire(blocking=False):
            raise StoreUnreachable(self._why)
        try:
            return self._try()
        finally:
            self._trying.release()

    def _try(self) -> Any:
        try:
            connection = self.dialect.connect(self.address, self._password)
        except Exception as exc:
            first = (str(exc).strip() or type(exc).__name__).splitlines()[0]
            self._why = f"cannot reach the database {self.address}: {first}"
            self._down_until = time.monotonic() + _PAUSE
            raise StoreUnreachable(self._why) from None
        self._down_until = None
        try:
            self._check_schema(connection)
        except BaseException:
            with contextlib.suppress(Exception):
                connection.close()
            raise
        return connection

    def _check_schema(self, connection: Any) -> None:
        if self._any_schema:
            return
        hint = "run `mailseal init --store`"
        with self._translated(connection), connection.cursor() as cursor:
            try:
                cursor.execute("SELECT version FROM mailseal_schema")
                found = cursor.fetchone()
            except Exception as exc:
                if self.dialect.meaning(exc) is not Meaning.OTHER:
                    raise
                found = None
        if found is None:
            raise TemporaryError(f"{self.address} has no tables for mailseal", hint=hint)
        if found[0] > SCHEMA_VERSION:
            raise NewerFormat(
                f"{self.address} has tables of a newer mailseal", hint="upgrade mailseal"
            )
        if found[0] < SCHEMA_VERSION:
            raise TemporaryError(f"{self.address} has tables of an older mailseal", hint=hint)

    @contextlib.contextmanager
    def _asking(self, connection: Any) -> Iterator[None]:
        """Errors of the driver become ours, and nobody waits for ever."""
        with self._translated(connection), self._patience.limit(self.dialect.fileno(connection)):
            yield

    @contextlib.contextmanager
    def _translated(self, connection: Any) -> Iterator[None]:
        try:
            yield
        except MailsealError:
            raise
        except Exception as exc:
            if type(exc).__module__.partition(".")[0] not in ("psycopg", "pymysql") and not (
                isinstance(exc, (OSError, AttributeError, ValueError))
                and self.dialect.meaning(exc) is Meaning.LOST
            ):
                raise
            meaning, name = self.dialect.meaning(exc), type(exc).__name__
            if meaning is Meaning.TAKEN:
                raise Taken from None
            if meaning is Meaning.BUSY:
                raise Conflict(f"the database is busy ({name})") from None
            if meaning is Meaning.LOST:
                if getattr(self._mine, "connection", None) is connection:
                    self.close()
                raise StoreUnreachable(
                    f"the connection to {self.address} was lost ({name})"
                ) from None
            code = getattr(exc, "sqlstate", None) or (exc.args[0] if exc.args else "")
            raise TemporaryError(f"the database refused a statement ({name} {code})") from None

    def _roll_back(self, connection: Any) -> None:
        mine: Any = getattr(self._mine, "connection", None)
        if mine is not connection:
            return
        with (
            contextlib.suppress(MailsealError),
            self._asking(connection),
            connection.cursor() as cursor,
        ):
            cursor.execute("ROLLBACK")
            return
        self.close()  # whatever became of it
