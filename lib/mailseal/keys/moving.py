# SPDX-License-Identifier: MIT
"""Moves keyrings and public keys from one store to another during normal operation.

CONTRACT
    1  all records are copied while the old store is in use
    2  the old store is closed for changes: changes fail temporarily, reads still work
    3  records that have changed since step 1 are copied, and each record of both stores is
       compared
    If a step fails, the old store is opened again.  The new store must be empty, or contain the
    records of an earlier, unfinished move.  Records of users who are not in the old store are an
    error, except if the keys were once moved away from the new store (`replaces`): then it is an
    old copy, and such records are removed.

FAILURES
    Damaged: a record cannot be read, or the two stores differ.  TemporaryError as the stores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from mailseal.errors import Damaged, NotEnrolled, TemporaryError
from mailseal.keys.keyring import Keyring
from mailseal.keys.stores import KeyringStore, KeyStores, PublicKeys


class Gate(Protocol):
    """Closes a store for changes."""

    def close(self, where: str) -> None: ...
    def open(self) -> None: ...
    def is_closed(self) -> bool: ...


class Move:
    """One move.  `tell` is called with a sentence about each step."""

    def __init__(
        self,
        old: tuple[KeyringStore, PublicKeys],
        new: tuple[KeyringStore, PublicKeys],
        gate: Gate,
        tell: Callable[[str], None],
        *,
        replaces: bool = False,
    ) -> None:
        self._old = old
        self._new = new
        self._gate = gate
        self._tell = tell
        self._replaces = replaces

    def run(self, where: str) -> int:
        """Returns the number of moved users.  `where` names the new store in messages."""
        if not self._replaces:
            self._refuse_others()
        self._tell(f"{self._copy()} records copied")
        self._gate.close(where)
        try:
            self._tell(f"closed for changes; {self._copy()} records copied again")
            count = self._compare()
        except BaseException:
            self._gate.open()
            raise
        return count

    def _users(self, stores: tuple[KeyringStore, PublicKeys]) -> list[str]:
        keyrings, public = stores
        return sorted({*keyrings.users(), *public.users()})

    def _refuse_others(self) -> None:
        if others := set(self._users(self._new)) - set(self._users(self._old)):
            raise Damaged(
                f"the new store has {len(others)} users who are not in the old one, "
                f"for example {min(others)}",
                hint="move into an empty store",
            )

    def _copy(self) -> int:
        old, new = self._old, self._new
        count = 0
        for user in sorted({*self._users(old), *self._users(new)}):
            if _record(old, user) == _record(new, user):
                continue
            with KeyStores(*new).transaction(user):
                count += self._copy_one(user)
        return count

    def _copy_one(self, user: str) -> int:
        public = self._old[1]
        new_keyrings, new_public = self._new
        data, state = _record(self._old, user)
        if data is None:
            new_public.withdraw(user)
            new_keyrings.remove(user)
        else:
            new_keyrings.overwrite(Keyring.parse(data, user))
        if state == "suspended":
            new_public.suspend(user)
        elif state and (key := public.lookup(user)) is not None:
            new_public.publish(user, key)
        return 1

    def _compare(self) -> int:
        users = self._users(self._old)
        if self._users(self._new) != users:
            raise Damaged("the new store has other users than the old one")
        if names := self._old[1].strangers(users):
            raise Damaged(
                f"{names[0]} is marked as enrolled and has neither a keyring nor a public key",
                hint=f"restore the keyring from a backup, or run `mailseal unenroll {names[0]}`",
            )
        for user in users:
            if _record(self._old, user) != _record(self._new, user):
                raise Damaged(f"{user} differs in the two stores; the old store stays in use")
        return len(users)


def _record(stores: tuple[KeyringStore, PublicKeys], user: str) -> tuple[bytes | None, str]:
    """The keyring, and the state in the store of public keys."""
    keyrings, public = stores
    data = None
    with contextlib.suppress(NotEnrolled):
        data = keyrings.raw(user)
    if public.is_suspended(user):
        return data, "suspended"
    if not public.is_marked(user):
        return data, ""
    key = public.lookup(user)
    if key is None:
        raise TemporaryError(f"the keys of {user} are being changed", hint="try again")
    return data, key.key_id.hex()
