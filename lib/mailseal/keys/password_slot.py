# SPDX-License-Identifier: MIT
"""Slots that a typed secret opens: the login password, app passwords, recovery codes.

Argon2id derives 64 bytes from the secret, with the slot's own salt and cost: 32 wrap
the master key with AES-256-GCM, 32 are stored as the check value.  The check value
binds the slot to one password (with AES-GCM alone, one ciphertext could be opened
with two keys) and distinguishes a wrong password from a damaged slot.
The associated data of the wrap contains user, slot id, kind, label, time and every
parameter, so that a slot cannot be used in another place.

FAILURES
    open() returns None for a wrong password.  It raises Damaged if the password is
    right (according to the check value) but the wrap cannot be opened.
"""

from __future__ import annotations

import dataclasses
import hmac
import os
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailseal.crypto import kdf
from mailseal.errors import BadPassword, Damaged
from mailseal.keys import codes
from mailseal.keys.slot import (
    MASTER_SIZE,
    NONCE_SIZE,
    TAG_SIZE,
    Credential,
    Derive,
    Password,
    RecoveryCode,
    SlotKind,
    associated,
    check_label,
    common,
)

SALT_SIZE = 16
CHECK_SIZE = 32
MAX_PASSWORD = 255
"""Longest password in bytes that can be set.  Dovecot 2.3's checkpassword driver passes at most 512
bytes: a user name of up to 254, the password, and three NULs; otherwise it does not run the
program.  crypt(3) hashes at most 511."""
MAX_OPENING = 1024
"""Longest password in bytes that is tried on a slot."""


def check_password(password: bytes) -> None:
    """Raise BadPassword if this can never be a password."""
    if not password:
        raise BadPassword("the password is empty")
    if len(password) > MAX_PASSWORD:
        raise BadPassword(
            f"the password has {len(password)} bytes, at most {MAX_PASSWORD} are allowed"
        )
    if any(byte in password for byte in b"\0\r\n"):
        raise BadPassword("the password contains a NUL or a line end")


@dataclasses.dataclass(frozen=True)
class PasswordSlot:
    """Opens with a password, an app password or a recovery code."""

    id: str
    kind: str
    label: str
    created: int
    cost: kdf.Profile
    salt: bytes
    check: bytes
    nonce: bytes
    wrapped: bytes
    tag: bytes = b""

    @classmethod
    def seal(
        cls,
        master: bytes | bytearray,
        password: bytes,
        *,
        user: str,
        slot_id: str,
        kind: str,
        label: str,
        created: int,
        cost: kdf.Profile,
        derive: Derive = kdf.derive,
    ) -> PasswordSlot:
        """Wrap a master key.  Runs Argon2id once.  Raises BadPassword, UsageError."""
        check_password(password)
        salt, nonce = os.urandom(SALT_SIZE), os.urandom(NONCE_SIZE)
        cost = dataclasses.replace(cost, name="stored")
        bare = cls(slot_id, kind, check_label(label), created, cost, salt, b"", nonce, b"")
        derived = derive(password, salt, cost, 32 + CHECK_SIZE)
        wrapped = AESGCM(derived[:32]).encrypt(nonce, bytes(master), bare._associated(user))
        return dataclasses.replace(bare, check=derived[32:], wrapped=wrapped)

    def open(self, password: bytes, user: str, derive: Derive = kdf.derive) -> bytearray | None:
        """The master key, or None for a wrong password.  Runs Argon2id once."""
        derived = derive(password, self.salt, self.cost, 32 + CHECK_SIZE)
        if not hmac.compare_digest(derived[32:], self.check):
            return None
        try:
            opened = AESGCM(derived[:32]).decrypt(self.nonce, self.wrapped, self._associated(user))
        except InvalidTag:
            raise Damaged(f"slot {self.id} of {user} is damaged") from None
        return bytearray(opened)

    def with_tag(self, tag: bytes) -> PasswordSlot:
        """A copy with this tag."""
        return dataclasses.replace(self, tag=tag)

    def takes(self, credential: Credential) -> bool:
        """Whether this could be its password.  Codes contain the id of their slot."""
        return self._typed(credential) is not None

    def unwrap(self, credential: Credential, user: str, derive: Derive) -> bytearray | None:
        """The master key, or None.  Runs Argon2id once, if takes() is true."""
        typed = self._typed(credential)
        return None if typed is None else self.open(typed, user, derive)

    def _typed(self, credential: Credential) -> bytes | None:
        """The input of Argon2id for this slot, or None."""
        if self.kind == "login":
            return credential.text if isinstance(credential, Password) else None
        wanted = Password if self.kind == "app" else RecoveryCode
        if not isinstance(credential, wanted):
            return None
        plain = codes.read(self.kind, credential.text)
        return plain if plain is not None and codes.slot_of(plain) == self.id else None

    def _associated(self, user: str) -> bytes:
        return associated(self, user, **_kdf_fields(self.cost, self.salt))

    def as_json(self) -> dict[str, Any]:
        """The stored fields."""
        return {
            **common(self),
            **_kdf_fields(self.cost, self.salt),
            "check": self.check.hex(),
            "nonce": self.nonce.hex(),
            "wrapped": self.wrapped.hex(),
        }


def _kdf_fields(cost: kdf.Profile, salt: bytes) -> dict[str, Any]:
    return {
        "kdf": "argon2id",
        "kdf_version": kdf.VERSION,
        "memory_kib": cost.memory_kib,
        "passes": cost.passes,
        "lanes": cost.lanes,
        "salt": salt.hex(),
    }


def _parse(fields: Mapping[str, Any]) -> PasswordSlot:
    cost = kdf.Profile("stored", fields["memory_kib"], fields["passes"], fields["lanes"])
    slot = PasswordSlot(
        fields["id"],
        fields["kind"],
        fields["label"],
        fields["created"],
        cost,
        bytes.fromhex(fields["salt"]),
        bytes.fromhex(fields["check"]),
        bytes.fromhex(fields["nonce"]),
        bytes.fromhex(fields["wrapped"]),
        bytes.fromhex(fields["tag"]),
    )
    sizes = (len(slot.salt), len(slot.check), len(slot.nonce), len(slot.wrapped))
    if sizes != (SALT_SIZE, CHECK_SIZE, NONCE_SIZE, MASTER_SIZE + TAG_SIZE):
        raise ValueError
    if any(type(number) is not int for number in (cost.memory_kib, cost.passes, cost.lanes)):
        raise ValueError
    return slot


KINDS = (
    SlotKind("login", _parse, opens_mail=True, changes_slots=True, sets_login=True),
    SlotKind("app", _parse, opens_mail=True, tried_first=True),
    SlotKind("recovery", _parse, sets_login=True, second_way=True, tried_first=True),
)
