# SPDX-License-Identifier: MIT
"""The store of keyrings in a database: a row for each user.

CONTRACT
    See KeyringStore in stores.py.  A crash leaves no temporary files to remove.
    A change of a keyring replaces the row only if the row still has the revision from which the
    change started.  The revision consists of the number and stamp of the transaction that wrote
    the row, and the number of the last `lock --all`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from contextlib import AbstractContextManager

from mailseal.errors import AlreadyEnrolled, BadUserName, Conflict, NotEnrolled
from mailseal.keys.keyring import Keyring
from mailseal.keys.names import normalise
from mailseal.keys.sql.database import Database, Taken
from mailseal.keys.stores import ReadKeyrings, Revision

_INSERT = (
    "INSERT INTO mailseal_keyrings (name, revision, body, change_number, stamp) "
    "VALUES (%s, %s, %s, %s, %s)"
)


class SqlKeyrings(ReadKeyrings):
    """The keyrings of all users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def revision(self, user: str) -> Revision | None:
        """The revision of the stored keyring, or None if there is none."""
        row = self._database.row(
            "SELECT k.change_number, k.stamp, s.locked FROM mailseal_keyrings k, mailseal_state s "
            "WHERE k.name = %s",
            normalise(user).encode(),
        )
        return None if row is None else _revision(*row)

    def _read(self, user: str) -> tuple[bytes, Revision]:
        row = self._database.row(
            "SELECT k.body, k.change_number, k.stamp, s.locked "
            "FROM mailseal_keyrings k, mailseal_state s WHERE k.name = %s",
            normalise(user).encode(),
        )
        if row is None:
            raise NotEnrolled(f"{user} is not enrolled")
        return bytes(row[0]), _revision(*row[1:])

    def users(self) -> list[str]:
        """Every user with a keyring, damaged or not, sorted."""
        found = []
        for name in self._database.names(
            "SELECT name FROM mailseal_keyrings WHERE name > %s ORDER BY name LIMIT %s"
        ):
            with contextlib.suppress(BadUserName):
                found.append(normalise(name))
        return sorted(found)

    def locked(self, user: str) -> AbstractContextManager[None]:
        """Hold the user's lock.  A thread may take it again; it ends with the connection."""
        return self._database.locked(normalise(user))

    def create(self, keyring: Keyring) -> None:
        """Store a new user's keyring.  Raises AlreadyEnrolled if there is one."""
        try:
            with self.locked(keyring.user):
                self._insert(keyring)
        except Taken:
            raise AlreadyEnrolled(f"{keyring.user} already has a keyring") from None

    def save(self, keyring: Keyring, *, before: Keyring) -> Keyring:
        """Replace `before` by `keyring`; returns the stored keyring and its new revision."""
        user = keyring.user
        stored = dataclasses.replace(keyring, revision=before.revision + 1)
        with self.locked(user), self._database.write(user) as write:
            row = write.row("SELECT body FROM mailseal_keyrings WHERE name = %s", user.encode())
            if row is None:
                raise NotEnrolled(f"{user} is not enrolled")
            Keyring.parse(bytes(row[0]), user)
            replaced = write.execute(
                "UPDATE mailseal_keyrings SET revision = %s, body = %s, change_number = %s, "
                "stamp = %s WHERE name = %s AND revision = %s",
                stored.revision,
                stored.encode(),
                write.change,
                write.stamp,
                user.encode(),
                before.revision,
            )
            if not replaced:
                raise Conflict(
                    f"the keyring of {user} was changed by another process at the same time",
                    hint="nothing was written; try again",
                )
        return stored

    def overwrite(self, keyring: Keyring) -> None:
        """Store a keyring and replace any other: for restoring a backup."""
        with self.locked(keyring.user):
            self._insert(keyring, replace=True)

    def _insert(self, keyring: Keyring, *, replace: bool = False) -> None:
        name = keyring.user.encode()
        with self._database.write(keyring.user) as write:
            if replace:
                write.execute("DELETE FROM mailseal_keyrings WHERE name = %s", name)
            data = keyring.encode()
            write.execute(_INSERT, name, keyring.revision, data, write.change, write.stamp)

    def remove(self, user: str) -> None:
        """Delete the user's keyring."""
        user = normalise(user)
        with self.locked(user), self._database.write(user) as write:
            write.execute("DELETE FROM mailseal_keyrings WHERE name = %s", user.encode())

    def end_sessions(self, user: str | None) -> None:
        """Change the revision of the user's keyring, or of all: all agents end the sessions."""
        if user is None:
            with self._database.write("", locks=True) as write:
                write.execute("UPDATE mailseal_state SET locked = %s", write.change)
            return
        user = normalise(user)
        with self._database.write(user, locks=True) as write:
            write.execute(
                "UPDATE mailseal_keyrings SET change_number = %s, stamp = %s WHERE name = %s",
                write.change,
                write.stamp,
                user.encode(),
            )

    def sweep(self, user: str) -> list[str]:
        """Does nothing: a transaction that was not committed leaves nothing."""
        return []

    def sweep_all(self) -> list[str]:
        """Does nothing."""
        return []


def _revision(change: int, stamp: bytes, locked: int) -> Revision:
    return Revision(f"{change}-{bytes(stamp).hex()}-{locked}")
