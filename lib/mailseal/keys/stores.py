# SPDX-License-Identifier: MIT
"""The contracts of the keyring store and the public key store, and how both change together.

Keystore (keystore.py) and PublicStore (public.py) keep files.  Another implementation has
the same methods and passes the same tests: tests/unit/store_contract.py.

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

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NewType, Protocol

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import TemporaryError
from mailseal.keys.keyring import Keyring

Revision = NewType("Revision", str)
"""Stands for one stored content of one user's keyring; good for nothing but comparing.

Another content has another revision, also after a restore and after unenroll and enroll."""


class KeyringStore(Protocol):
    """Keyrings by user.  Raises, besides what both stores raise, NewerFormat in load()."""

    def revision(self, user: str) -> Revision | None:
        """Of the content stored now; None if there is none.  Cheap: asked at every login."""
        ...

    def load(self, user: str) -> Keyring:
        """The keyring.  Raises NotEnrolled if there is none."""
        ...

    def load_revision(self, user: str) -> tuple[Keyring, Revision]:
        """The keyring, and the revision of exactly this content."""
        ...

    def raw(self, user: str) -> bytes:
        """The keyring as Keyring.encode() gave it, byte for byte, after checking it."""
        ...

    def users(self) -> list[str]:
        """Everybody who has a keyring, sorted; damaged ones too, as far as they can be told."""
        ...

    def locked(self, user: str) -> AbstractContextManager[None]:
        """Hold the user still: nobody else writes, in no process.  A thread may take it again.

        It ends with the process.  Nobody holds it while Argon2id runs.
        """
        ...

    def create(self, keyring: Keyring) -> None:
        """Store a first keyring.  Raises AlreadyEnrolled if there is one."""
        ...

    def save(self, keyring: Keyring, *, before: Keyring) -> Keyring:
        """Replace `before`; returns what was stored: its `revision` is one more.

        Raises Conflict, and writes nothing, if the stored one has another `revision` than
        `before`; NotEnrolled if there is none.
        """
        ...

    def overwrite(self, keyring: Keyring) -> None:
        """Store a keyring whatever is there: for restoring a backup."""
        ...

    def remove(self, user: str) -> None:
        """Delete the keyring for ever.  None there is fine."""
        ...

    def sweep(self, user: str) -> list[str]:
        """Remove what a power cut has left of a write for this user; what it was, for the log.

        Called under locked(user).
        """
        ...

    def sweep_all(self) -> list[str]:
        """The same for everybody.  Takes the locks by itself."""
        ...


class PublicKeys(Protocol):
    """Public keys by user, and who is enrolled."""

    def lookup(self, user: str) -> PublicKey | None:
        """The key that seals; None only if the user is certainly not enrolled.

        Raises TemporaryError, Damaged, NewerFormat for whatever is not certain.
        """
        ...

    def is_marked(self, user: str) -> bool:
        """Whether the user is enrolled, whatever the state of the key."""
        ...

    def is_suspended(self, user: str) -> bool:
        """Whether suspend() was the last that happened."""
        ...

    def users(self) -> list[str]:
        """Everybody who has a readable key, sorted."""
        ...

    def publish(self, user: str, key: PublicKey) -> None:
        """From now on this key seals.  Between old and new nobody is "not enrolled"."""
        ...

    def suspend(self, user: str) -> None:
        """From now on lookup() raises TemporaryError, until publish() or withdraw()."""
        ...

    def withdraw(self, user: str) -> None:
        """From now on the user is not enrolled."""
        ...

    def sweep(self, user: str) -> list[str]:
        """As KeyringStore.sweep()."""
        ...

    def left_over(self) -> list[str]:
        """Users for whom sweep() has something to do, as far as can be told."""
        ...


class KeyStores:
    """Both places.  Whoever changes something does it in a transaction."""

    def __init__(
        self,
        keyrings: KeyringStore,
        public: PublicKeys,
        *,
        swept: Callable[[list[str]], None] = lambda names: None,
    ) -> None:
        """`swept` is told what power cuts had left and was removed."""
        self.keyrings = keyrings
        self.public = public
        self._swept = swept

    @contextlib.contextmanager
    def transaction(self, user: str) -> Iterator[Change]:
        """Hold keyring and public key of a user; the block reads and changes them."""
        with self.keyrings.locked(user):
            if names := [*self.keyrings.sweep(user), *self.public.sweep(user)]:
                self._swept(names)
            yield Change(user, self.keyrings, self.public)

    def sweep_all(self) -> None:
        """Remove whatever power cuts have left."""
        if names := self.keyrings.sweep_all():
            self._swept(names)
        for user in self.public.left_over():
            with self.transaction(user):
                pass


class Change:
    """One user's keyring and public key, held still.  Each method ends in a whole state."""

    def __init__(self, user: str, keyrings: KeyringStore, public: PublicKeys) -> None:
        self.user = user
        self._keyrings = keyrings
        self._public = public

    def keyring(self) -> Keyring:
        """What is stored now."""
        return self._keyrings.load(self.user)

    def create(self, keyring: Keyring) -> None:
        """Enroll the user.  If it fails the user is not enrolled, unless the key is public already.

        Then mail may be sealed to it.
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
        """Replace the keyring, and the public key if that is another one now."""
        self._keyrings.save(keyring, before=before)
        if keyring.current != before.current:
            self._public.publish(self.user, keyring.current)

    def overwrite(self, keyring: Keyring) -> None:
        """Put a keyring of a backup in the place of whatever is there.  Publish it next."""
        self._keyrings.overwrite(keyring)

    def publish(self, key: PublicKey) -> None:
        """Publish the key that the stored keyring has as its current one."""
        self._public.publish(self.user, key)

    def suspend(self) -> None:
        """Let mail wait, and nobody log in."""
        self._public.suspend(self.user)

    def remove(self) -> None:
        """Take the user out for ever."""
        self._public.withdraw(self.user)
        self._keyrings.remove(self.user)
