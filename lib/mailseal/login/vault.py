# SPDX-License-Identifier: MIT
"""The agent's operations on keyrings and public keys, without sockets, sessions or threads.

CONTRACT
    Every method may block: it reads and writes files, and those that take a
    password run Argon2id through the `derive` they were given.  They may run in
    several threads at a time; the revision check of the store detects concurrent
    writes.  After every write the keyring and the public key agree, or
    the next unlock makes them (order of writes: keystore.py).

FAILURES
    WrongPassword also stands for "no such user" where a password was given,
    after the same Argon2id.  TemporaryError if the user is marked as enrolled
    but the keyring is gone, or if the public key is somebody else's.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Sequence

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import (
    AlreadyEnrolled,
    Conflict,
    Damaged,
    MailsealError,
    NewerFormat,
    NotEnrolled,
    TemporaryError,
    UsageError,
    WrongPassword,
)
from mailseal.keys.escrow_slot import EscrowSlot
from mailseal.keys.keyring import Keyring, Opened
from mailseal.keys.keyring_file import MAX_KEYS, MAX_SLOTS
from mailseal.keys.names import normalise
from mailseal.keys.password_slot import check_password
from mailseal.keys.slot import Derive, Slot
from mailseal.keys.slots import kind_of
from mailseal.keys.stores import KeyringStore, KeyStores, PublicKeys, Revision
from mailseal.login import mailcrypt_fields
from mailseal.login.publication import Publication


@dataclasses.dataclass(frozen=True)
class Unlocked:
    """What a right password gave."""

    revision: Revision
    keys: Sequence[PrivateKey]
    slot_id: str
    settled: bool = True
    """False while two login passwords open: a next login may have to decide between them."""


SETTLE_AFTER = 600
"""Seconds in which a panel has to finish a change of a password (Lifecycle.passwd).  Later a login
with the old password decides, and a next change may take its place."""


class Vault:
    """Keyrings and public keys together.  `version` is that of Dovecot: "2.3", "2.4"."""

    def __init__(
        self,
        store: KeyringStore,
        public: PublicKeys,
        *,
        curve: str,
        cost: kdf.Profile,
        version: str = "2.3",
        escrow: PublicKey | None = None,
        derive: Derive = kdf.derive,
        clock: Callable[[], float] = time.time,
        log: logging.Logger | None = None,
    ) -> None:
        self.store = store
        self.public = public
        self.curve = curve
        self.cost = cost
        self.version = version
        self.escrow = escrow
        self.derive = derive
        self._clock = clock
        self.log = log or logging.getLogger("mailseal.vault")
        self.stores = KeyStores(store, public, swept=self._note_swept)
        self.publication = Publication(self.stores, self.log)

    def now(self) -> int:
        """Seconds since 1970, for what is stored."""
        return int(self._clock())

    def unlock(self, user: str, password: bytes, *, vouched: bool = False) -> Unlocked:
        """Open a keyring with a login or app password.

        `vouched` says that another passdb has accepted the password, which decides a
        change that is not settled (see Lifecycle.passwd): the newer of two login
        passwords takes the older away at once, the older the newer after SETTLE_AFTER.
        Before that it says nothing: a phone may be quicker than the panel.
        A missing escrow slot is added too.
        """
        keyring, stamp = self._load_for_password(user, password)
        opened = keyring.unlock(password, derive=self.derive)
        try:
            self.check_public(user, [key.public for key in opened.keys])
            if opened.slot.kind == "login" and self._tidy(opened, drop_other=vouched):
                saved = self._save_tidied(opened, keyring)
                stamp, keyring = saved or stamp, opened.keyring if saved else keyring
            settled = opened.slot.kind != "login" or keyring.pending is None
            return Unlocked(stamp, opened.keys, opened.slot.id, settled)
        finally:
            opened.wipe()

    def _tidy(self, opened: Opened, *, drop_other: bool) -> bool:
        """Small changes that need the master key, made when it happens to be at hand."""
        before = opened.keyring
        new = before.pending
        # Not at once if the old password was used: its hash may be about to change.
        if drop_other and new and (opened.slot.id == new.id or self.is_old(new)):
            opened.drop_other_logins()
        self.add_escrow(opened)
        return opened.keyring is not before

    def _save_tidied(self, opened: Opened, before: Keyring) -> Revision | None:
        """Save what _tidy changed.  The login goes on without it: the next one tries again."""
        try:
            self.save(opened.keyring, before=before)
        except TemporaryError as exc:
            self.log.warning("user=<%s>, keyring not updated: %s", before.user, exc)
            return None
        self.log.info("user=<%s>, keyring updated at login", before.user)
        return self.store.revision(before.user)

    def is_old(self, change: Slot) -> bool:
        """Whether the panel that began this change had the time to finish it.

        A slot from the future was made before the clock was set back: nobody waits for it.
        """
        return not 0 <= self.now() - change.created < SETTLE_AFTER

    def minutes_left(self, change: Slot) -> int:
        """Until is_old(), for people."""
        return max(1, -(-(change.created + SETTLE_AFTER - self.now()) // 60))

    def add_escrow(self, opened: Opened) -> None:
        """Give a keyring the slot that the configuration asks for, if it lacks it.

        A full keyring goes on opening without it; the log says so.
        """
        if self.escrow is None:
            return
        keyring, wanted = opened.keyring, self.escrow.key_id
        if any(s.key_id == wanted for s in keyring.slots if isinstance(s, EscrowSlot)):
            return
        if len(keyring.slots) >= MAX_SLOTS:
            self.log.warning(
                "user=<%s> has %d slots, THERE IS NO ROOM FOR THE ESCROW SLOT; remove a slot with "
                "`mailseal revoke USER SLOT`",
                keyring.user,
                MAX_SLOTS,
            )
            return
        opened.add_escrow(self.escrow, "", now=self.now())

    def save(self, keyring: Keyring, *, before: Keyring) -> None:
        """Store a changed keyring, and its public key if that is another one now."""
        with self.stores.transaction(keyring.user) as change:
            change.save(keyring, before=before)

    def sweep(self) -> None:
        """Remove what power cuts have left: such a file opens with what opened it then."""
        try:
            self.stores.sweep_all()
        except MailsealError as exc:
            self.log.warning("files that a power failure may have left were not removed: %s", exc)

    def _note_swept(self, names: list[str]) -> None:
        self.log.warning("removed files left by a power failure or a crash: %s", ", ".join(names))

    def load(self, user: str) -> Keyring:
        """The stored keyring, closed."""
        return self.store.load(user)

    def published(self, user: str) -> PublicKey | None:
        """The key that seals new mail; None only if the user is certainly not enrolled."""
        return self.public.lookup(user)

    def revision(self, user: str) -> Revision | None:
        """Of the stored keyring; None if there is none."""
        return self.store.revision(user)

    def is_new(self, user: str) -> bool:
        """Whether there is nothing of this user, neither keyring nor mark."""
        return self.store.revision(user) is None and not self.public.is_marked(user)

    def room(self, keyring: Keyring) -> int:
        """How many more key pairs Dovecot can take at this user's login."""
        publics = [key.public for key in keyring.keys]
        fit = mailcrypt_fields.room(self.version, publics, self.curve)
        return max(0, min(fit, MAX_KEYS - len(publics)))

    def add_key(self, opened: Opened) -> PublicKey:
        """A new key pair for new mail.  Raises UsageError if a login could not carry it."""
        if not self.room(opened.keyring):
            user = opened.keyring.user
            raise UsageError(
                f"{user} has {len(opened.keys)} key pairs, more do not fit into a login at Dovecot",
                hint=f"`mailseal drop-key {user} KEYID` removes one that no mail needs",
            )
        return opened.add_key(self.curve, now=self.now())

    def check_public(self, user: str, keys: Sequence[PublicKey]) -> None:
        """See Publication.check()."""
        self.publication.check(user, keys)

    def _load_for_password(self, user: str, password: bytes) -> tuple[Keyring, Revision]:
        """The keyring; for a user without one, spend what a wrong password costs first."""
        try:
            return self.store.load_revision(user)
        except NotEnrolled:
            if self.public.is_marked(user):
                raise TemporaryError(
                    f"the keyring of {user} is missing", hint="restore it from a backup"
                ) from None
            self.derive(password, os.urandom(kdf.SALT_SIZE), self.cost, 64)
            raise WrongPassword(f"wrong password for {user}") from None

    def open(self, user: str, password: bytes) -> Opened:
        """Open a keyring with the login password, for changing it.

        App passwords open mail and nothing else: they are wrong here.
        """
        keyring, _ = self._load_for_password(user, password)
        opened = keyring.unlock(password, derive=self.derive)
        if not kind_of(opened.slot).changes_slots:
            opened.wipe()
            raise WrongPassword("an app password cannot do this; use the login password")
        return opened

    def enroll(self, user: str, password: bytes) -> Keyring:
        """Give a user a key pair, a login slot and, if configured, an escrow slot.

        Finishes an enrollment that a crash had cut short.
        Raises AlreadyEnrolled, BadPassword.
        """
        user = normalise(user)
        check_password(password)
        if self.store.revision(user) is not None:
            self._finish_enrollment(user, password)
            return self.store.load(user)
        if self.public.is_marked(user):
            raise TemporaryError(
                f"{user} is marked as enrolled, but the keyring is missing",
                hint=f"restore it from a backup, or run `mailseal unenroll {user}` first",
            )
        opened = Opened.create(user, curve=self.curve, now=self.now())
        try:
            opened.set_login(password, self.cost, now=self.now(), derive=self.derive)
            self.add_escrow(opened)
            with self.stores.transaction(user) as change:
                change.create(opened.keyring)
        finally:
            opened.wipe()
        return opened.keyring

    def _finish_enrollment(self, user: str, password: bytes) -> None:
        """A keyring without any published key was left by a crash: the right password ends it."""
        if self.public.is_marked(user):
            raise AlreadyEnrolled(f"{user} is already enrolled")
        opened = self.open(user, password)
        self.check_public(user, [key.public for key in opened.keys])
        opened.wipe()

    def users(self) -> list[str]:
        """Everybody who has a keyring or a public key, sorted."""
        return sorted({*self.store.users(), *self.public.users()})

    def is_known(self, user: str) -> bool:
        """Whether anything says that the user is enrolled: keyring, public key or mark."""
        if self.store.revision(user) is not None or self.public.is_marked(user):
            return True
        try:
            return self.public.lookup(user) is not None
        except (Damaged, NewerFormat):
            return True

    def repair(self, user: str) -> str:
        """See Publication.repair()."""
        return self.publication.repair(user)

    def find(self, key_id: bytes) -> str | None:
        """Whose key pair this is, current or older.  Reads every keyring."""
        for user in self.store.users():
            try:
                if self.store.load(user).holds(key_id):
                    return user
            except (Damaged, NotEnrolled, Conflict):
                continue
        return None
