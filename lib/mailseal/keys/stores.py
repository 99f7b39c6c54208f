# SPDX-License-Identifier: MIT
"""The contracts of the keyring store and the public key store, and how both change together.

Keystore (keystore.py) and PublicStore (public.py) keep files, sql/ keeps rows of a database.
Another implementation has the same methods and passes the same tests:
tests/unit/store_contract.py.

CONTRACT OF BOTH
    Methods may block on a disk or a network: the event loop never calls them.
    They may be called by several threads and several processes at a time.
    When a writing method returns, its changes survive a power failure.  When it raises,
    the store has the old state or the new one, never a mixture of both.
    User names are accepted in any spelling and normalised (names.py).
    Errors of the store itself raise TemporaryError or DiskFull; if stored data have
    changed, Damaged is raised.

ORDER OF WRITES (only Change writes)
    The keyring comes first, the public key second.  A crash in between leaves
    either a user who is not enrolled yet (mail still goes in clear, as before)
    or one whose mail is still sealed to the previous key, which the keyring holds
    too.  So mail is never sealed with a key that is in no keyring.  The next
    enrollment or login publishes the right key.  A user is removed in
    the opposite order: first the public key, then the keyring.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NewType, Protocol

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import TemporaryError
from mailseal.keys.keyring import Keyring
from mailseal.keys.names import normalise

Revision = NewType("Revision", str)
"""Identifies one stored content of a user's keyring.  Revisions can only be compared.

Different content has a different revision, also after a restore, and after unenroll and enroll."""


class KeyringStore(Protocol):
    """Keyrings by user.  In addition to the common errors, load() raises NewerFormat."""

    def revision(self, user: str) -> Revision | None:
        """The revision of the stored content; None if there is none.  Fast: used at every login."""
        ...

    def load(self, user: str) -> Keyring:
        """The keyring.  Raises NotEnrolled if there is none."""
        ...

    def load_revision(self, user: str) -> tuple[Keyring, Revision]:
        """The keyring, and the revision of exactly this content."""
        ...

    def raw(self, user: str) -> bytes:
        """The output of Keyring.encode(), byte for byte, after a check."""
        ...

    def users(self) -> list[str]:
        """All users with a keyring, sorted.  Damaged ones are included if their user is known."""
        ...

    def locked(self, user: str) -> AbstractContextManager[None]:
        """Lock the user against writes of other threads and processes.  Reentrant in a thread.

        The lock ends with the process.  Nobody may hold it while Argon2id runs.
        """
        ...

    def create(self, keyring: Keyring) -> None:
        """Store a first keyring.  Raises AlreadyEnrolled if there is one."""
        ...

    def save(self, keyring: Keyring, *, before: Keyring) -> Keyring:
        """Replace `before`.  Returns the stored keyring, with a `revision` that is one higher.

        Raises Conflict, and writes nothing, if the stored one has another `revision` than
        `before`; NotEnrolled if there is none.
        """
        ...

    def overwrite(self, keyring: Keyring) -> None:
        """Store a keyring and replace any existing one: to restore a backup."""
        ...

    def remove(self, user: str) -> None:
        """Delete the keyring permanently.  It need not exist."""
        ...

    def end_sessions(self, user: str | None) -> None:
        """Change the revision of the user's content (None: of all) if there are other agents.

        So all agents end the sessions.
        """
        ...

    def sweep(self, user: str) -> list[str]:
        """Remove what a power failure has left of a write for this user; names for the log.

        The caller holds locked(user).
        """
        ...

    def sweep_all(self) -> list[str]:
        """The same for all users.  Takes the locks itself."""
        ...


class ReadKeyrings(abc.ABC):
    """The reading methods of a KeyringStore, for implementations, by means of _read()."""

    @abc.abstractmethod
    def _read(self, user: str) -> tuple[bytes, Revision]:
        """The stored bytes and their revision.  Raises NotEnrolled."""

    def load(self, user: str) -> Keyring:
        """The user's keyring."""
        return self.load_revision(user)[0]

    def load_revision(self, user: str) -> tuple[Keyring, Revision]:
        """The user's keyring and the revision of exactly this content."""
        data, revision = self._read(user)
        return Keyring.parse(data, normalise(user)), revision

    def raw(self, user: str) -> bytes:
        """The unchanged bytes for a backup, after a check."""
        data, _ = self._read(user)
        Keyring.parse(data, normalise(user))
        return data


class PublicKeys(Protocol):
    """Public keys by user, and who is enrolled."""

    def lookup(self, user: str) -> PublicKey | None:
        """The key that seals new mail.  None only if the user is certainly not enrolled.

        Otherwise raises TemporaryError, Damaged or NewerFormat.
        """
        ...

    def is_marked(self, user: str) -> bool:
        """Whether the user is enrolled, with or without a valid key."""
        ...

    def is_suspended(self, user: str) -> bool:
        """Whether suspend() was the last change."""
        ...

    def users(self) -> list[str]:
        """All users with a key, valid or not, sorted."""
        ...

    def strangers(self, known: Iterable[str]) -> list[str]:
        """Who is marked as enrolled and not among these, as names of the store's own."""
        ...

    def publish(self, user: str, key: PublicKey) -> None:
        """Replace the key.  At no moment does the user seem not to be enrolled."""
        ...

    def suspend(self, user: str) -> None:
        """Make lookup() raise TemporaryError until publish() or withdraw()."""
        ...

    def withdraw(self, user: str) -> None:
        """Remove the user: from now on not enrolled."""
        ...

    def unaware(self, user: str, *, of_key: bool) -> list[str]:
        """Names of hosts that may still act on what there was before the last change of the user.

        With `of_key` also those that may seal with an older key; without it only those that may
        say "not enrolled".  First asked after that change.
        """
        ...

    def sweep(self, user: str) -> list[str]:
        """As KeyringStore.sweep()."""
        ...

    def left_over(self) -> list[str]:
        """Users whose files sweep() would remove, as far as they are known."""
        ...


class KeyStores:
    """Both stores.  All changes are made in a transaction."""

    def __init__(
        self,
        keyrings: KeyringStore,
        public: PublicKeys,
        *,
        swept: Callable[[list[str]], None] = lambda names: None,
    ) -> None:
        """`swept` is called with the names of removed left-overs of power failures."""
        self.keyrings = keyrings
        self.public = public
        self._swept = swept

    @contextlib.contextmanager
    def transaction(self, user: str) -> Iterator[Change]:
        """Lock keyring and public key of a user, to read and change them in the block."""
        with self.keyrings.locked(user):
            if names := [*self.keyrings.sweep(user), *self.public.sweep(user)]:
                self._swept(names)
            yield Change(user, self.keyrings, self.public)

    def sweep_all(self) -> None:
        """Remove all left-overs of power failures."""
        if names := self.keyrings.sweep_all():
            self._swept(names)
        for user in self.public.left_over():
            with self.transaction(user):
                pass


class Change:
    """One user's locked keyring and public key.  Each method ends in a consistent state."""

    def __init__(self, user: str, keyrings: KeyringStore, public: PublicKeys) -> None:
        self.user = user
        self._keyrings = keyrings
        self._public = public

    def keyring(self) -> Keyring:
        """The stored keyring."""
        return self._keyrings.load(self.user)

    def create(self, keyring: Keyring) -> None:
        """Enroll the user.  If this fails, the user is not enrolled, unless the public key exists.

        In that case, mail may have been sealed to it.
        """
        self._keyrings.create(keyring)
        try:
            self._public.publish(self.user, keyring.current)
        except TemporaryError:
            with contextlib.suppress(TemporaryError):
                if not self._public.is_marked(self.user):
                    self._keyrings.remove(self.user)
            raise

    def save(self, keyring: Keyring, *, before: Keyring) -> None:
        """Replace the keyring, and the public key if it has changed."""
        self._keyrings.save(keyring, before=before)
        if keyring.current != before.current:
            self._public.publish(self.user, keyring.current)

    def overwrite(self, keyring: Keyring) -> None:
        """Replace any keyring by one from a backup.  The caller publishes it next."""
        self._keyrings.overwrite(keyring)

    def publish(self, key: PublicKey) -> None:
        """Publish the current key of the stored keyring."""
        self._public.publish(self.user, key)

    def suspend(self) -> None:
        """Defer mail and refuse logins."""
        self._public.suspend(self.user)

    def remove(self) -> None:
        """Remove the user permanently."""
        self._public.withdraw(self.user)
        self._keyrings.remove(self.user)
