# SPDX-License-Identifier: MIT
"""The public keys in a database, for agents.  Delivery reads a copy of them (replica.py).

CONTRACT
    See PublicKeys in stores.py.  A row has the state of a user and is never deleted; no row means
    that the user was never enrolled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import BadUserName, TemporaryError
from mailseal.keys.names import normalise
from mailseal.keys.public import decode, encode
from mailseal.keys.sql.database import Database
from mailseal.keys.sql.feed import Position
from mailseal.keys.sql.hosts import Hosts

ENROLLED, SUSPENDED, WITHDRAWN = "enrolled", "suspended", "withdrawn"


class SqlPublicKeys:
    """Public keys by user, and who is enrolled."""

    def __init__(self, database: Database, hosts: Hosts) -> None:
        self._database = database
        self._hosts = hosts

    def lookup(self, user: str) -> PublicKey | None:
        """The key for sealing; None only if the user is certainly not enrolled."""
        user = normalise(user)
        state, body = self._row(user)
        if state == WITHDRAWN:
            return None
        if state == SUSPENDED or body is None:
            raise TemporaryError(
                f"the public key of {user} is missing", hint=f"run `mailseal repair {user}`"
            )
        return decode(body, user)

    def _row(self, user: str) -> tuple[str, bytes | None]:
        row = self._database.row(
            "SELECT state, body FROM mailseal_public_keys WHERE name = %s", user.encode()
        )
        if row is None:
            return WITHDRAWN, None
        return str(row[0]), None if row[1] is None else bytes(row[1])

    def is_marked(self, user: str) -> bool:
        """Whether the user is enrolled, whatever the state of the key."""
        return self._row(normalise(user))[0] != WITHDRAWN

    def is_suspended(self, user: str) -> bool:
        """Whether suspend() was the last change."""
        return self._row(normalise(user))[0] == SUSPENDED

    def users(self) -> list[str]:
        """All users with a key, valid or not, sorted."""
        found = []
        for name in self._database.names(
            "SELECT name FROM mailseal_public_keys WHERE state = %s AND body IS NOT NULL "
            "AND name > %s ORDER BY name LIMIT %s",
            ENROLLED,
        ):
            with contextlib.suppress(BadUserName):
                found.append(normalise(name))
        return sorted(found)

    def strangers(self, known: Iterable[str]) -> list[str]:
        """Users who are marked as enrolled and not in this list."""
        names = self._database.names(
            "SELECT name FROM mailseal_public_keys WHERE state <> %s AND name > %s "
            "ORDER BY name LIMIT %s",
            WITHDRAWN,
        )
        return sorted({name.decode("utf-8", "replace") for name in names} - set(known))

    def publish(self, user: str, key: PublicKey) -> None:
        """Store the key for sealing; it is used from now on."""
        user = normalise(user)
        self._put(user, ENROLLED, encode(user, key))

    def suspend(self, user: str) -> None:
        """From now on lookup() raises TemporaryError, until publish() or withdraw()."""
        self._put(normalise(user), SUSPENDED, None)

    def withdraw(self, user: str) -> None:
        """From now on the user is not enrolled."""
        self._put(normalise(user), WITHDRAWN, None)

    def _put(self, user: str, state: str, body: bytes | None) -> None:
        name = user.encode()
        with self._database.write(user) as write:
            write.execute("DELETE FROM mailseal_public_keys WHERE name = %s", name)
            write.execute(
                "INSERT INTO mailseal_public_keys (name, state, body, change_number) "
                "VALUES (%s, %s, %s, %s)",
                name,
                state,
                body,
                write.change,
            )

    def unaware(self, user: str, *, of_key: bool) -> list[str]:
        """Hosts that may still use the state before the last change: see PublicKeys.

        Raises TemporaryError if the database has lost the change.
        """
        user = normalise(user)
        with self._database.pinned():
            row = self._database.row(
                "SELECT users.state, users.change_number, changes.stamp "
                "FROM mailseal_public_keys AS users LEFT JOIN mailseal_changes AS changes "
                "ON changes.number = users.change_number WHERE users.name = %s",
                user.encode(),
            )
            if row is None or (row[0] == WITHDRAWN and not of_key):
                raise TemporaryError(
                    f"{user} is not enrolled in the database any more",
                    hint="a failover may have lost the change: see docs/several-hosts.md",
                )
            change = Position(int(row[1]), b"" if row[2] is None else bytes(row[2]))
            return self._hosts.unaware(change, of_key=of_key)

    def sweep(self, user: str) -> list[str]:
        """Does nothing: a transaction that was not committed leaves nothing."""
        return []

    def left_over(self) -> list[str]:
        """No users."""
        return []
