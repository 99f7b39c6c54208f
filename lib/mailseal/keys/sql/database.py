# SPDX-License-Identifier: MIT
"""Connections to the database: one for each thread, opened when needed, reopened when lost.

CONTRACT
    rows() runs one statement that reads.  If the connection is broken, it is run again on a new
    one.  write() is one transaction.  It has a number, larger than the numbers of all
    transactions committed before.  It is committed when the block ends; then it survives a
    crash.  The numbers have the order of the commits, because the row that counts them stays
    locked until the commit.  locked() holds a lock until the block ends or the connection breaks.
    If it breaks, the writes in the block fail, because they use the same connection.
    While the database is down, one thread at a time tries to connect, every _PAUSE seconds; the
    other threads fail at once.  So logins that do not need the database do not wait.

FAILURES
    StoreUnreachable: no answer; a write may or may not have been committed.
    TemporaryError: BUSY, another schema, or the keys have moved to another store.
    Errors never contain the values of a statement.
"""

from __future__ import annotations

import contextlib
import hashlib
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
from mailseal.keys.sql.dialect import STATEMENT_WITHIN, Meaning
from mailseal.keys.sql.drivers import dialect_of, why_not
from mailseal.keys.sql.patience import Patience
from mailseal.keys.sql.transaction import Row, Write, new_stamp

SCHEMA_VERSION = 1

NAMES_AT_ONCE = 50_000

_PAUSE = 1.0
_PATIENCE = STATEMENT_WITHIN + 5.0


class Taken(Exception):
    """A row with this key exists."""


class Database:
    """One database, for any number of threads."""

    def __init__(
        self,
        address: Address,
        *,
        password: str | None = None,
        any_schema: bool = False,
        if_refused: str | None = None,
    ) -> None:
        """`if_refused`: the hint if the server does not let this user in."""
        self.address = address
        self.dialect = dialect_of(address)
        self._password = password
        self._any_schema = any_schema
        self._mine = threading.local()
        self._patience = Patience(_PATIENCE)
        self._trying = threading.Lock()
        self._down_until: float | None = None
        self._why: tuple[str, str | None] = ("", None)  # and what to do
        self._if_refused = if_refused
        self.own_locks: set[bytes] = set()  # stamps; feed.py removes them

    def rows(self, text: str, *values: Any) -> list[Row]:
        """Run a statement that reads; returns all rows."""
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
        """Run a statement that reads; returns the first row."""
        found = self.rows(text, *values)
        return found[0] if found else None

    def names(self, text: str, *values: Any) -> Iterator[bytes]:
        """All names, however many.  `text` ends with `name > %s ORDER BY name LIMIT %s`."""
        after = b""
        while True:
            found = self.rows(text, *values, after, NAMES_AT_ONCE)
            yield from (bytes(name) for (name,) in found)
            if len(found) < NAMES_AT_ONCE:
                return
            after = bytes(found[-1][0])

    def statement(self, text: str, *values: Any) -> int:
        """Run a statement that changes rows but no keys; returns the number of rows found."""
        connection = self.connection()
        with self._asking(connection), connection.cursor() as cursor:
            cursor.execute(text, values)
            return int(cursor.rowcount)

    @contextlib.contextmanager
    def write(self, user: str, count: int = 1, *, locks: bool = False) -> Iterator[Write]:
        """A transaction with `count` numbers; Write has the last one.

        `user` is the user whose keys it changes, for the other agents; "" means all users.
        `locks`: it is a mailseal lock.
        """
        stamp = new_stamp(locks=locks)
        if locks:
            self.own_locks.add(stamp)
        connection, write = self._begin(user, count, stamp)
        try:
            with self._asking(connection):
                yield write
                self.dialect.notify(write._cursor)
                write.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise

    def _begin(self, user: str, count: int, stamp: bytes) -> tuple[Any, Write]:
        for attempt in (1, 2):
            connection = self.connection()
            try:
                with self._asking(connection):
                    return connection, self._numbered(connection, user, count, stamp)
            except StoreUnreachable:
                if attempt == 2 or self._is_holding:
                    raise
            except BaseException:
                self._roll_back(connection)
                raise
        raise AssertionError

    def _numbered(self, connection: Any, user: str, count: int, stamp: bytes) -> Write:
        cursor = connection.cursor()
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
    def locked(self, name: str, refusal: TemporaryError | None = None) -> Iterator[None]:
        """See the contract; a thread may take a lock again that it holds.

        `refusal` is raised if it stays taken.
        """
        held: list[str] = self._mine.__dict__.setdefault("held", [])
        if name in held:
            yield
            return
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        refusal = refusal or TemporaryError(f"the keys of {name} are being changed")
        connection = self._lock(number, refusal)
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
        """Run the block on one connection, so with one server; fails if the connection is lost."""
        self.row("SELECT 1")  # replaces a connection that was lost before
        held: list[str] = self._mine.__dict__.setdefault("held", [])
        held.append("")
        try:
            yield
        finally:
            held.remove("")

    def _lock(self, number: int, refusal: TemporaryError) -> Any:
        for attempt in (1, 2):
            connection = self.connection()
            try:
                with self._asking(connection), connection.cursor() as cursor:
                    if not self.dialect.lock(cursor, number):
                        raise refusal
                return connection
            except StoreUnreachable:
                if attempt == 2 or self._is_holding:
                    raise
        raise AssertionError

    def wait(self, seconds: float) -> None:
        """Wait until something has changed, or for about this time."""
        connection = self.connection()
        with self._translated(connection):
            if not getattr(self._mine, "listening", False):
                with self._asking(connection), connection.cursor() as cursor:
                    self.dialect.listen(cursor)
                self._mine.listening = True
                return
            self.dialect.wait(connection, seconds)

    @property
    def _is_holding(self) -> bool:
        """Refuse to reconnect: a new connection would not have the locks of the old one."""
        return bool(getattr(self._mine, "held", None))

    def connection(self) -> Any:
        """The connection of this thread."""
        found: Any = getattr(self._mine, "connection", None)
        if found is None:
            if self._is_holding:
                raise StoreUnreachable("the connection to the database was lost during a change")
            found = self._open()
            self._mine.connection = found
            self._mine.listening = False
        return found

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._mine, "connection", None)
        self._mine.connection = None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def _open(self) -> Any:
        if self._down_until is None:
            return self._try()
        if time.monotonic() < self._down_until or not self._trying.acquire(blocking=False):
            raise StoreUnreachable(self._why[0], hint=self._why[1])
        try:
            return self._try()
        finally:
            self._trying.release()

    def _try(self) -> Any:
        try:
            connection = self.dialect.connect(self.address, self._password)
        except Exception as exc:
            # First the reason, which other threads read while the database is down.
            self._why = why_not(self.dialect, self.address, exc, self._if_refused)
            self._down_until = time.monotonic() + _PAUSE
            raise StoreUnreachable(self._why[0], hint=self._why[1]) from None
        self._down_until = None
        try:
            self._check_schema(connection)
        except BaseException:
            with contextlib.suppress(Exception):
                connection.close()
            raise
        return connection

    def _check_schema(self, connection: Any) -> None:
        with self._asking(connection):
            self.dialect.prepare(connection)
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
        """Translate errors of the driver, and limit the time of a request."""
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
        self.close()  # whether this succeeded or not
