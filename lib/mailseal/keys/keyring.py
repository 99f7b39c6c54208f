# SPDX-License-Identifier: MIT
"""One user's keyring: key pairs, sealed with a master key, and the slots that open it.

FORMAT (keyring_file.py describes the file)
    user, created     user name; seconds since 1970
    revision          increases with each write; it detects concurrent writes
    keys              oldest first, the last one seals new mail: id, curve, created, public (DER),
                      nonce and sealed (the private number under AES-256-GCM)
    keys_tag          HMAC-SHA256 over the list of keys
    slots             see slot.py and slots.py

INTEGRITY
    The digest of the file detects accidental changes.  The associated data detect
    deliberate changes: a private key is bound to user, id, curve, position and time, a slot
    to user, id and parameters; keys_tag authenticates the list of keys, and a slot's tag that
    slot.  Without the master key, nothing can be exchanged or added, and no key pair removed; but
    a slot can be removed, or an older file put back.  It cannot open keys from after a rekey().

FAILURES
    parse() raises Damaged or NewerFormat.  Opening raises WrongPassword or Damaged.
"""

from __future__ import annotations

import dataclasses
import hmac
import os
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import CURVES, PrivateKey, PublicKey
from mailseal.errors import Damaged, NewerFormat, UsageError, WrongPassword
from mailseal.keys import codes, keyring_file, slots
from mailseal.keys.escrow_slot import EscrowSlot
from mailseal.keys.keyring_file import MAX_KEYS, MAX_SLOTS
from mailseal.keys.names import normalise
from mailseal.keys.password_slot import PasswordSlot
from mailseal.keys.sealed import SealedKey, list_tag
from mailseal.keys.slot import (
    MASTER_SIZE,
    Credential,
    Derive,
    EscrowKey,
    Password,
    RecoveryCode,
    Slot,
    tag_of,
)


@dataclasses.dataclass(frozen=True)
class Keyring:
    """A keyring as it is stored, not opened."""

    user: str
    created: int
    revision: int
    keys: tuple[SealedKey, ...]
    keys_tag: bytes
    slots: tuple[Slot, ...]

    @property
    def current(self) -> PublicKey:
        """The public key that seals new mail."""
        return self.keys[-1].public

    def holds(self, key_id: bytes) -> bool:
        """Whether the key pair is in this keyring, current or older."""
        return any(key.public.key_id == key_id for key in self.keys)

    def of_kind(self, kind: str) -> tuple[Slot, ...]:
        """The slots of one kind."""
        return tuple(slot for slot in self.slots if slot.kind == kind)

    @property
    def pending(self) -> Slot | None:
        """The new login slot of an open password change, or None."""
        logins = self.of_kind("login")
        return logins[0] if len(logins) > 1 else None

    def slot(self, slot_id: str) -> Slot:
        """The slot with this id.  Raises UsageError."""
        for slot in self.slots:
            if slot.id == slot_id:
                return slot
        raise UsageError(f"{self.user} has no slot {slot_id}")

    @property
    def has_second_way(self) -> bool:
        """Whether there is a recovery method."""
        return any(slots.kind_of(slot).second_way for slot in self.slots)

    def open(self, credential: Credential, *, derive: Derive = kdf.derive) -> Opened:
        """Open with a credential.  Runs Argon2id once for each slot that is tried.

        Raises WrongPassword, Damaged.
        """
        fitting = [slot for slot in self.slots if slot.takes(credential)]
        fitting.sort(key=lambda slot: not slots.kind_of(slot).tried_first)
        for slot in fitting:
            master = slot.unwrap(credential, self.user, derive)
            if master is not None:
                return self._opened(master, slot)
        raise WrongPassword(f"wrong password for {self.user}")

    def unlock(self, password: bytes, *, derive: Derive = kdf.derive) -> Opened:
        """Open with the login password or an app password, for reading mail."""
        opened = self.open(Password(password), derive=derive)
        if not slots.kind_of(opened.slot).opens_mail:
            opened.wipe()
            raise WrongPassword("this password does not open mail")
        return opened

    def recover(self, typed: bytes, *, derive: Derive = kdf.derive) -> Opened:
        """Open with a recovery code.  Raises WrongPassword with the reason, Damaged."""
        if codes.read("recovery", typed) is None:
            raise WrongPassword(
                "this is not a recovery code: eight groups of four letters and digits",
                hint="check for typing errors: the checksum of the code is wrong",
            )
        try:
            return self.open(RecoveryCode(typed), derive=derive)
        except WrongPassword:
            raise WrongPassword(
                f"this recovery code does not belong to {self.user}, or was replaced"
            ) from None

    def open_escrow(self, private: PrivateKey) -> Opened:
        """Open with the organisation's private key."""
        try:
            return self.open(EscrowKey(private))
        except WrongPassword:
            raise WrongPassword(f"{self.user} has no slot for this escrow key") from None

    def without(self, slot_id: str) -> Keyring:
        """Remove a slot.  Needs no password.  The login slot cannot be removed."""
        slot = self.slot(slot_id)
        if slot.kind == "login" and len(self.of_kind("login")) == 1:
            raise UsageError(
                "the login slot cannot be removed", hint="change it with `mailseal passwd USER`"
            )
        return dataclasses.replace(self, slots=tuple(s for s in self.slots if s is not slot))

    def _opened(self, master: bytearray, slot: Slot) -> Opened:
        expected = list_tag(master, self.user, self.keys)
        if len(master) != MASTER_SIZE or not hmac.compare_digest(expected, self.keys_tag):
            raise Damaged(f"the list of keys of {self.user} was changed")
        for one in self.slots:
            if not hmac.compare_digest(tag_of(master, self.user, one), one.tag):
                raise Damaged(f"slot {one.id} of {self.user} was changed")
        keys = tuple(key.open(master, self.user, at) for at, key in enumerate(self.keys))
        return Opened(self, master, slot, keys)

    def encode(self) -> bytes:
        """The file."""
        names = [field.name for field in dataclasses.fields(self)]
        return keyring_file.encode({name: getattr(self, name) for name in names})

    @classmethod
    def parse(cls, data: bytes, user: str) -> Keyring:
        """Read this user's file.  Raises Damaged, NewerFormat."""
        try:
            keyring = cls(**keyring_file.decode(data))
            if keyring.encode() != data:
                raise Damaged("not in canonical form")
        except Damaged as exc:
            raise Damaged(f"the keyring of {user} is damaged: {exc}") from None
        except NewerFormat as exc:
            raise NewerFormat(f"the keyring of {user} {exc}", hint=exc.hint) from None
        if keyring.user != user:
            raise Damaged(f"the keyring of {user} belongs to another user")
        return keyring


class Opened:
    """An opened keyring.  Changes make a new `keyring`; nothing is written to disk here."""

    def __init__(
        self, keyring: Keyring, master: bytearray, slot: Slot | None, keys: tuple[PrivateKey, ...]
    ) -> None:
        self.keyring = keyring
        self.keys = keys
        self._slot = slot
        self._master = master

    @property
    def slot(self) -> Slot:
        """The slot that opened it."""
        if self._slot is None:
            raise UsageError("a new keyring was not opened with a slot")
        return self._slot

    @classmethod
    def create(cls, user: str, *, curve: str, now: int) -> Opened:
        """A new keyring with one key pair and no slot yet."""
        user = normalise(user)
        opened = cls(Keyring(user, now, 0, (), b"", ()), bytearray(os.urandom(32)), None, ())
        opened.add_key(curve, now=now)
        return opened

    def add_key(self, curve: str, *, now: int) -> PublicKey:
        """Add a key pair for new mail.  Older ones stay for reading."""
        if len(self.keyring.keys) >= MAX_KEYS:
            raise UsageError(f"a keyring can have at most {MAX_KEYS} key pairs")
        if curve not in CURVES:
            raise UsageError(f"unknown curve: {curve}")
        key = PrivateKey.generate(curve)
        user, at = self.keyring.user, len(self.keyring.keys)
        keys = (*self.keyring.keys, SealedKey.seal(self._master, key, user, at, now))
        tag = list_tag(self._master, user, keys)
        self.keyring = dataclasses.replace(self.keyring, keys=keys, keys_tag=tag)
        self.keys = (*self.keys, key)
        return key.public

    def drop_key(self, key_id: bytes) -> None:
        """Remove an older key pair permanently.  The caller has checked that no mail needs it."""
        if key_id == self.keyring.current.key_id:
            raise UsageError(
                "this key pair seals new mail and cannot be removed",
                hint=f"make a new one with `mailseal rotate {self.keyring.user}`",
            )
        pairs = zip(self.keys, self.keyring.keys, strict=True)
        kept = [(key, sealed.created) for key, sealed in pairs if key.key_id != key_id]
        if len(kept) == len(self.keys):
            raise UsageError(f"{self.keyring.user} has no key pair {key_id.hex()}")
        self._seal_keys(kept)

    def rekey(
        self, password: bytes, cost: kdf.Profile, *, now: int, derive: Derive = kdf.derive
    ) -> tuple[Slot, ...]:
        """Make a new master key, with `password` as the login password.  Returns removed slots.

        Escrow slots are made again.  This is impossible for the others without their secrets.
        """
        old = self.keyring.slots
        pairs = [(k, s.created) for k, s in zip(self.keys, self.keyring.keys, strict=True)]
        self._master[:] = os.urandom(MASTER_SIZE)
        self._seal_keys(pairs)
        self._set_slots(())
        self._slot = self.set_login(password, cost, now=now, derive=derive)
        for slot in old:
            if isinstance(slot, EscrowSlot):
                self.add_escrow(slot.public, slot.label, now=now)
        return tuple(s for s in old if s.kind != "login" and not isinstance(s, EscrowSlot))

    def _seal_keys(self, pairs: list[tuple[PrivateKey, int]]) -> None:
        """Seal these key pairs, oldest first, each with the time when it was made."""
        user = self.keyring.user
        sealed = tuple(
            SealedKey.seal(self._master, key, user, at, created)
            for at, (key, created) in enumerate(pairs)
        )
        tag = list_tag(self._master, user, sealed)
        self.keyring = dataclasses.replace(self.keyring, keys=sealed, keys_tag=tag)
        self.keys = tuple(key for key, _ in pairs)

    def set_login(
        self,
        password: bytes,
        cost: kdf.Profile,
        *,
        now: int,
        keep: str | None = None,
        derive: Derive = kdf.derive,
    ) -> Slot:
        """Set the login password; returns its slot.  Of the older login slots, `keep` stays."""
        if self._slot is not None and not slots.kind_of(self._slot).sets_login:
            raise WrongPassword("a new login password cannot be set with this password")
        slot_id = codes.new_id({slot.id for slot in self.keyring.slots}, codes.CHANGE_ID_SIZE)
        login = self._password_slot(
            password, slot_id=slot_id, kind="login", label="", created=now, cost=cost, derive=derive
        )
        old = self.keyring.of_kind("login")
        kept = tuple(slot for slot in old if slot.id == keep)
        others = tuple(slot for slot in self.keyring.slots if slot not in old)
        self._set_slots((login, *kept, *others))
        return login

    def drop_kind(self, kind: str, *, but: str) -> None:
        """Remove all slots of a kind but the one with this id."""
        kept = (s for s in self.keyring.slots if s.kind != kind or s.id == but)
        self._set_slots(tuple(kept))

    def add_code(
        self,
        kind: str,
        label: str,
        cost: kdf.Profile,
        *,
        now: int,
        derive: Derive = kdf.derive,
    ) -> tuple[Slot, str]:
        """Make an app password or recovery code.  Returns its slot and its text."""
        slot_id = codes.new_id({slot.id for slot in self.keyring.slots})
        code = codes.make(kind, slot_id)
        plain = codes.read(kind, code.encode()) or b""
        slot = self._password_slot(
            plain, slot_id=slot_id, kind=kind, label=label, created=now, cost=cost, derive=derive
        )
        self._set_slots((*self.keyring.slots, slot))
        return slot, code

    def put(self, slot: Slot) -> None:
        """Add a slot that add_code() made before, in place of all others of its kind."""
        others = tuple(one for one in self.keyring.slots if one.kind != slot.kind)
        same = hmac.compare_digest(tag_of(self._master, self.keyring.user, slot), slot.tag)
        if not same or any(one.id == slot.id for one in others):
            raise UsageError("the keyring has changed since the code was made", hint="begin again")
        self._set_slots((*others, slot))

    def add_escrow(self, public: PublicKey, label: str, *, now: int) -> Slot:
        """Add a slot for the organisation's key.  Replaces an older one for the same key."""
        others = tuple(
            slot
            for slot in self.keyring.slots
            if not (isinstance(slot, EscrowSlot) and slot.key_id == public.key_id)
        )
        slot_id = codes.new_id({slot.id for slot in others})
        user = self.keyring.user
        slot = self._tagged(
            EscrowSlot.seal(
                self._master, public, user=user, slot_id=slot_id, label=label, created=now
            )
        )
        self._set_slots((*others, slot))
        return slot

    def index_key(self) -> bytes:
        """The key of the user's index folder, 64 bytes: never stored, another after rekey()."""
        return HKDF(hashes.SHA512(), 64, None, b"mailseal index folder 1").derive(self._master)

    def wipe(self) -> None:
        """Overwrite the master key.  Copies made by Python or OpenSSL may still exist."""
        self._master[:] = bytes(len(self._master))
        self.keys = ()

    def _password_slot(self, password: bytes, **made: Any) -> Slot:
        user = self.keyring.user
        return self._tagged(PasswordSlot.seal(self._master, password, user=user, **made))

    def _tagged(self, slot: Slot) -> Slot:
        return slot.with_tag(tag_of(self._master, self.keyring.user, slot))

    def _set_slots(self, new: tuple[Slot, ...]) -> None:
        if len(new) > MAX_SLOTS:
            raise UsageError(f"a keyring can have at most {MAX_SLOTS} slots")
        self.keyring = dataclasses.replace(self.keyring, slots=new)
