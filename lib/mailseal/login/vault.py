# SPDX-License-Identifier: MIT
"""The agent's operations on keyrings and public keys, without sockets, sessions or threads.

CONTRACT
    Every method may block: it reads and writes files, and methods with a password
    run Argon2id, with the given function `derive`.  Several threads may use it at the
    same time; the revision check of the store detects concurrent writes.  After each write
    the keyring and the public key match, or the next unlock corrects them (stores.py defines
    the order of writes).

FAILURES
    WrongPassword is also raised for an unknown user if a password was given, after the
    same Argon2id.  TemporaryError: the user is marked as enrolled but the keyring does not
    exist, or the public key is not the user's.
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
from mailseal.login.host_copy import HostCopy, in_use
from mailseal.login.publication import Publication


@dataclasses.dataclass(frozen=True)
class Unlocked:
    """The result for a right password."""

    revision: Revision
    keys: Sequence[PrivateKey]
    slot_id: str
    index_key: bytes
    seals: PublicKey
    """The one of the keys with which this host seals mail at the end of unlock()."""
    settled: bool = True
    """False during a password change: then the next login may decide which password stays."""


SETTLE_AFTER = 600
"""Seconds that a panel has to complete a password change (Lifecycle.passwd).  After that a login
with the old password undoes the change, and another change may replace it."""


class Vault:
    """Keyrings and public keys together.  `version` is Dovecot's: "2.3" or "2.4".

    `copy` is this host's copy of the public keys, if they are in a database.
    """

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
        copy: PublicKeys | None = None,
    ) -> None:
        self.store = store
        self.public = public
        self.copy = HostCopy(copy)
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
        """The present time in seconds since 1970, for stored times."""
        return int(self._clock())

    def unlock(self, user: str, password: bytes, *, vouched: bool = False) -> Unlocked:
        """Open a keyring with a login or app password.

        `vouched` means that another passdb has accepted the password.  This ends an open
        password change (see Lifecycle.passwd): a login with the newer password removes the
        older one at once, a login with the older password removes the newer one after
        SETTLE_AFTER.  Before that time it proves nothing: the panel may not have changed the
        user database yet.  A missing escrow slot is added too.
        """
        keyring, stamp = self._load_for_password(user, password)
        opened = keyring.unlock(password, derive=self.derive)
        try:
            self.check_public(user, own := [key.public for key in opened.keys])
            if opened.slot.kind == "login" and self._tidy(opened, drop_other=vouched):
                saved = self._save_tidied(opened, keyring)
                stamp, keyring = saved or stamp, opened.keyring if saved else keyring
            settled = opened.slot.kind != "login" or keyring.pending is None
            seals = in_use(self.copy.key(user), own)
            return Unlocked(stamp, opened.keys, opened.slot.id, opened.index_key(), seals, settled)
        finally:
            opened.wipe()

    def _tidy(self, opened: Opened, *, drop_other: bool) -> bool:
        """Small changes that need the master key, made when it is available."""
        before = opened.keyring
        new = before.pending
        # Not at once if the old password was used: the panel may be about to change its hash.
        if drop_other and new and (opened.slot.id == new.id or self.is_old(new)):
            opened.drop_kind("login", but=opened.slot.id)
        self.add_escrow(opened)
        return opened.keyring is not before

    def _save_tidied(self, opened: Opened, before: Keyring) -> Revision | None:
        """Save the changes of _tidy().  If this fails, the next login tries again."""
        try:
            self.save(opened.keyring, before=before)
        except TemporaryError as exc:
            self.log.warning("user=<%s>, keyring not updated: %s", before.user, exc)
            return None
        self.log.info("user=<%s>, keyring updated at login", before.user)
        return self.store.revision(before.user)

    def is_old(self, change: Slot) -> bool:
        """Whether the panel that began this change has had enough time to complete it.

        If the clock was set back, the slot seems to be from the future; it counts as old.
        """
        return not 0 <= self.now() - change.created < SETTLE_AFTER

    def minutes_left(self, change: Slot) -> int:
        """Minutes until is_old()."""
        return max(1, -(-(change.created + SETTLE_AFTER - self.now()) // 60))

    def add_escrow(self, opened: Opened) -> None:
        """Add the escrow slot of the configuration, if the keyring does not have it.

        If the keyring is full, it still opens, and there is a log message.
        """
        if self.escrow is None:
            return
        keyring, wanted = opened.keyring, self.escrow.key_id
        if any(s.key_id == wanted for s in keyring.slots if isinstance(s, EscrowSlot)):
            return
        if len(keyring.slots) >= MAX_SLOTS:
            self.log.warning(
                "user=<%s> has %d slots, THE ESCROW SLOT DOES NOT FIT; remove a slot with "
                "`mailseal revoke USER SLOT`",
                keyring.user,
                MAX_SLOTS,
            )
            return
        opened.add_escrow(self.escrow, "", now=self.now())

    def save(self, keyring: Keyring, *, before: Keyring) -> None:
        """Store a changed keyring, and its public key if that has changed."""
        with self.stores.transaction(keyring.user) as change:
            change.save(keyring, before=before)

    def tidy(self) -> None:
        """Do what a power failure or a crash has left undone.

        Files that it left are removed, because old passwords may still open them; keys of
        interrupted enrollments are published.  With 100,000 keyrings and 1,000,000 public keys this
        takes more than two seconds, so the agent answers meanwhile.
        """
        try:
            self.stores.sweep_all()
            self.publication.publish_missing()
        except MailsealError as exc:
            self.log.warning("what a power failure may have left was not put right: %s", exc)

    def _note_swept(self, names: list[str]) -> None:
        self.log.warning("removed files left by a power failure or a crash: %s", ", ".join(names))

    def load(self, user: str) -> Keyring:
        """The stored keyring, not opened."""
        return self.store.load(user)

    def published(self, user: str) -> PublicKey | None:
        """The key that seals new mail.  None only if the user is certainly not enrolled."""
        found = self.public.lookup(user)
        if found is None:
            self.copy.must_not_know(user, certainly=True)
        return found

    def revision(self, user: str) -> Revision | None:
        """The revision of the stored keyring; None if there is no keyring."""
        return self.store.revision(user)

    def is_new(self, user: str) -> bool:
        """Whether the user has neither a keyring nor a mark."""
        return self.store.revision(user) is None and not self.public.is_marked(user)

    def room(self, keyring: Keyring) -> int:
        """How many more key pairs fit into this user's login."""
        publics = [key.public for key in keyring.keys]
        fit = mailcrypt_fields.room(self.version, publics, self.curve)
        return max(0, min(fit, MAX_KEYS - len(publics)))

    def add_key(self, opened: Opened) -> PublicKey:
        """Add a key pair for new mail.  Raises UsageError if it does not fit into a login."""
        if not self.room(opened.keyring):
            user = opened.keyring.user
            raise UsageError(
                f"{user} has {len(opened.keys)} key pairs, more do not fit into a login of Dovecot",
                hint=f"`mailseal drop-key {user} KEYID` removes one that no mail needs",
            )
        return opened.add_key(self.curve, now=self.now())

    def check_public(self, user: str, keys: Sequence[PublicKey]) -> None:
        """See Publication.check()."""
        self.publication.check(user, keys)

    def _load_for_password(self, user: str, password: bytes) -> tuple[Keyring, Revision]:
        """Load the keyring.  If there is none, first run Argon2id as for a wrong password."""
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
        """Open a keyring with the login password, to change it.

        App passwords only open mail, so they are refused.
        """
        keyring, _ = self._load_for_password(user, password)
        opened = keyring.unlock(password, derive=self.derive)
        if not kind_of(opened.slot).changes_slots:
            opened.wipe()
            raise WrongPassword("an app password cannot do this; use the login password")
        return opened

    def enroll(self, user: str, password: bytes) -> Keyring:
        """Give a user a key pair, a login slot and, if configured, an escrow slot.

        Completes an enrollment that was interrupted by a crash.
        Raises AlreadyEnrolled, BadPassword.
        """
        user = normalise(user)
        check_password(password)
        if self.store.revision(user) is not None:
            self._finish_enrollment(user, password)
            return self.store.load(user)
        opened = self.newcomer(user, password)
        try:
            self.store_newcomer(opened.keyring)
        finally:
            opened.wipe()
        return opened.keyring

    def newcomer(self, user: str, password: bytes) -> Opened:
        """A keyring for a user who has none, with a login slot; nothing is stored.

        Raises AlreadyEnrolled, BadPassword, TemporaryError if only the keyring is missing.
        """
        check_password(password)
        if self.store.revision(user) is not None:
            raise AlreadyEnrolled(f"{user} already has a keyring")
        if self.public.is_marked(user):
            raise TemporaryError(
                f"{user} is marked as enrolled, but the keyring is missing",
                hint=f"restore it from a backup, or run `mailseal unenroll {user}` first",
            )
        opened = Opened.create(user, curve=self.curve, now=self.now())
        try:
            opened.set_login(password, self.cost, now=self.now(), derive=self.derive)
            self.add_escrow(opened)
        except BaseException:
            opened.wipe()
            raise
        return opened

    def store_newcomer(self, keyring: Keyring) -> None:
        """Store a keyring that newcomer() has made, and publish its key."""
        with self.stores.transaction(keyring.user) as change:
            change.create(keyring)

    def _finish_enrollment(self, user: str, password: bytes) -> None:
        """Complete an enrollment after a crash that left a keyring without a published key."""
        if self.public.is_marked(user):
            raise AlreadyEnrolled(f"{user} is already enrolled")
        opened = self.open(user, password)
        self.check_public(user, [key.public for key in opened.keys])
        opened.wipe()

    def users(self) -> list[str]:
        """All users who have a keyring or a public key, sorted."""
        return sorted({*self.store.users(), *self.public.users()})

    def is_known(self, user: str) -> bool:
        """Whether the user has a keyring, a public key or a mark."""
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
        """The user with this key pair, current or older.  Reads all keyrings."""
        for user in self.store.users():
            try:
                if self.store.load(user).holds(key_id):
                    return user
            except (Damaged, NotEnrolled, Conflict):
                continue
        return None
