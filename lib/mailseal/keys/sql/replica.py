# SPDX-License-Identifier: MIT
"""Keeps a copy of the database's public keys in a folder on this host.

CONTRACT
    step() asks for changes, writes them to disk, and renews the lease (keys/lease.py), in this
    order:
        1  takes the time, and reads from disk which change was the last one
        2  gives a sign of life.  This is a write, so only the primary commits it, and it fails if
           the database does not have the last change that is on this disk
        3  asks for all changes since then, and writes them to disk
        4  renews the lease: it expires replica.lease seconds after the time taken in step 1
        5  confirms the changes
    So while the lease is valid, all changes committed before step 1 are on disk, and a user who
    is not on disk was not enrolled at step 1.  `enroll` waits until each host has confirmed the
    change or its lease has expired (hosts.py).
    A user is removed only if a row says so.  If the database has lost users who are on disk,
    their mail is deferred.

FAILURES
    MailsealError: the lease is not renewed.  The files on disk stay.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator

from mailseal import durable
from mailseal.errors import BadUserName, Damaged, NewerFormat, TemporaryError
from mailseal.keys import lease
from mailseal.keys.copying import Change, Copying
from mailseal.keys.names import normalise, user_of_file
from mailseal.keys.public import PublicStore, decode
from mailseal.keys.sql.database import Database
from mailseal.keys.sql.feed import Feed, Position
from mailseal.keys.sql.public import ENROLLED, WITHDRAWN
from mailseal.keys.sql.transaction import Row

_PAGE = 5_000
"""Users in memory at a time: 10 MB."""

_PAGES_AT_ONCE = 20
"""Pages for each sync of the file system: it takes a second, and more where others write too."""

_FEW = 8
"""Up to this number, changes are synced one by one; more are synced together."""


class Replica:
    """One folder.  Only one process may use it; the service holds a lock."""

    def __init__(
        self,
        database: Database,
        store: PublicStore,
        *,
        name: str,
        seconds: int,
        log: logging.Logger,
        now: Callable[[], float] | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`progress` is called after each page of users, and each user who is doubted."""
        self._database = database
        self._feed = Feed(database)
        self._store = store
        self._files = Copying(store.folder)
        self._is_synced = False  # a process that was killed may have written files
        self._progress = progress
        self._name = name
        self._seconds = seconds
        self._log = log
        self._now = now or lease.Clock().now
        self._position = self._stored()
        self._id = self._read_id()

    @property
    def is_filled(self) -> bool:
        """Whether the folder has ever had a complete copy of the database."""
        return os.path.exists(self._path("position"))

    def is_due(self) -> bool:
        """Whether something has changed in the database.  Gives no sign of life."""
        return self._feed.now() != self._stored()

    def step(self) -> None:
        """See the contract.  All answers must come from one server."""
        with self._database.pinned():
            self._step(self._now())

    def _step(self, began: float) -> None:
        on_disk = self._position = self._stored()
        whole = not self._sign_of_life() or not on_disk.number
        if whole and on_disk.number:
            self._log.error(
                "the database has lost changes that this host has: comparing all public keys"
            )
            # If this is interrupted, some files are those of the older database.  Then the newer
            # one may come back, and this position would be right again.
            on_disk = self._position = Position()
            self._write_position()
        now = self._feed.now()
        known: set[str] | None = None if not whole or self._files.is_empty() else set()
        self._copy(known)
        if known is not None:
            self._doubt_strangers(known)
        if self._stored() != on_disk:
            raise TemporaryError(f"{self._store.folder} was restored or changed just now")
        self._position = now
        self._write_position()
        is_true = lease.lua_reads_this_clock()
        lease.write(self._store.folder, began + self._seconds if is_true else None)
        self._confirm()
        if not is_true:
            raise TemporaryError(
                "/proc/uptime does not show the time since the machine was started, so the copy "
                "has no lease: does lxcfs replace it?  See docs/several-hosts.md"
            )

    def _sign_of_life(self) -> bool:
        """Whether the database has this position; the statement that writes checks it."""
        for _ in range(2):
            if self._confirm(and_live=True):
                return True
            if self._database.statement(
                "UPDATE mailseal_hosts SET applied = 0, beat = beat + 1, name = %s, "
                "lease = GREATEST(lease, %s), seen = CURRENT_TIMESTAMP(6) WHERE id = %s",
                self._name,
                self._seconds,
                self._id,
            ):
                return False
            self._database.statement(
                "INSERT INTO mailseal_hosts (id, name, lease, applied, beat, seen) "
                "VALUES (%s, %s, %s, 0, 1, CURRENT_TIMESTAMP(6))",
                self._id,
                self._name,
                self._seconds,
            )
        raise TemporaryError("the database does not keep the row of this host")

    def _confirm(self, *, and_live: bool = False) -> bool:
        at = self._position
        if at.number == 0 and not self.is_filled:
            return False
        return bool(
            self._database.statement(
                "UPDATE mailseal_hosts SET applied = %s, beat = beat + %s, name = %s, "
                "lease = GREATEST(lease, %s), seen = CURRENT_TIMESTAMP(6) WHERE id = %s AND "
                "(EXISTS (SELECT 1 FROM mailseal_changes WHERE number = %s AND stamp = %s) "
                "OR EXISTS (SELECT 1 FROM mailseal_state WHERE last_change = 0 AND %s = 0))",
                at.number,
                int(and_live),
                self._name,
                self._seconds,
                self._id,
                at.number,
                at.stamp,
                at.number,
            )
        )

    def _copy(self, known: set[str] | None) -> None:
        """Write all changes to disk, and add their users to `known`."""
        for count, rows in enumerate(self._pages(), 1):
            changes = [change for row in rows if (change := self._change(*row[:3])) is not None]
            self._take([change for change in changes if not self._files.has(change)])
            if known is not None:
                known.update(change.user for change in changes)
            if not self._is_synced and (count % _PAGES_AT_ONCE == 0 or len(rows) < _PAGE):
                self._files.sync()
                self._is_synced = True
            self._progress()

    def _pages(self) -> Iterator[list[Row]]:
        """All rows since the position on disk; the last page is not full, and may be empty."""
        after = self._position.number
        while True:
            rows = self._database.rows(
                "SELECT name, state, body, change_number FROM mailseal_public_keys "
                "WHERE change_number > %s ORDER BY change_number LIMIT %s",
                after,
                _PAGE,
            )
            yield rows
            if len(rows) < _PAGE:
                return
            after = int(rows[-1][3])

    def _change(self, name: bytes, state: str, body: bytes | None) -> Change | None:
        try:
            user = normalise(bytes(name))
        except BadUserName:
            self._log.error("the database has a user whose name is not allowed")
            return None
        if state == WITHDRAWN:
            return Change(user, None, False)
        if state != ENROLLED or body is None:
            return Change(user, None, True)
        try:
            decode(bytes(body), user)
        except (Damaged, NewerFormat) as exc:
            self._log.error("%s; mail for this user is deferred", exc)
            return Change(user, None, True)
        return Change(user, bytes(body), True)

    def _take(self, changes: list[Change]) -> None:
        if len(changes) > _FEW:
            self._is_synced = False
            self._files.take(changes)
            return
        for user, data, marked in changes:
            if data is not None:
                self._store.publish(user, decode(data, user))
            elif marked:
                self._store.suspend(user)
            else:
                self._store.withdraw(user)

    def _doubt_strangers(self, known: set[str]) -> None:
        for name in self._store.strangers(known):
            if self._store.take_key_away(name):
                self._log.error(
                    "user=<%s> is enrolled here and not in the database: mail is deferred; restore "
                    "the keyring from a backup, or enroll and unenroll the user",
                    user_of_file(name) or name,
                )
            self._progress()

    def _read_id(self) -> str:
        """The id of this host's row: a new one after each boot, and for another name.

        So machines that are copies of one another do not use the same row, and neither do
        containers on one machine.
        """
        path, whose = self._path("host"), f" {lease.boot_id()} {self._name}\n"
        with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as stream:
            found = stream.read()
            if found[32:] == whose:
                return found[:32]
        made = secrets.token_hex(16)
        durable.replace(path, f"{made}{whose}".encode(), mode=0o644, alone=True)
        return made

    def _write_position(self) -> None:
        at = self._position
        line = f"{at.number} {at.stamp.hex()}\n".encode()
        durable.replace(self._path("position"), line, mode=0o644, alone=True)

    def _stored(self) -> Position:
        """The position on disk: somebody may restore the folder while the service runs."""
        return _read_position(self._path("position"))

    def _path(self, name: str) -> str:
        return os.path.join(self._store.folder, name)


def _read_position(path: str) -> Position:
    try:
        with open(path, encoding="ascii") as stream:
            number, stamp = (stream.read().rstrip("\n") + " ").split(" ")[:2]
        return Position(int(number), bytes.fromhex(stamp))
    except (FileNotFoundError, ValueError):
        return Position()
    except OSError as exc:
        raise durable.error_of(exc, f"cannot read {path}") from None
