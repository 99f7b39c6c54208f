# SPDX-License-Identifier: MIT
"""Slots: the ways into a keyring.  Each wraps the same 32-byte master key on its own.

A slot that takes a password (kinds "login", "app", "recovery") runs it through Argon2id
with the slot's own salt and cost to 64 bytes: 32 wrap the master key with AES-256-GCM, 32 are
stored as the check value.  The check value commits the slot to one password
(AES-GCM alone would let one ciphertext open under two keys, and then with
two meanings) and tells "wrong password" from "damaged slot".
A slot of kind "escrow" seals the master key to the organisation's public key:
ephemeral ECDH, HKDF-SHA256, AES-256-GCM.

The associated data of the wrap holds user, slot id, kind, label, time and
every parameter, so that a slot opens only where it was made.

FAILURES
    open() returns None for a wrong password and raises Damaged when the password is
    right (the check value says so) but the wrap does not open.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import unicodedata
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import BadPassword, Damaged, NoKey, UsageError

VERSION = 1
MASTER_SIZE = 32
SALT_SIZE = 16
CHECK_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
MAX_PASSWORD = 255
"""Longest password in bytes that anybody may set.  Dovecot 2.3's checkpassword driver carries 512
bytes: a user name of up to 254, the password, three NULs.  What is longer it does not ask us
about.  crypt(3) hashes 511."""
MAX_OPENING = 1024
"""Longest password in bytes that is tried on a slot."""
MAX_LABEL = 100
PASSWORD_KINDS = ("login", "app", "recovery")

Derive = Callable[[bytes, bytes, kdf.Profile, int], bytes]
"""kdf.derive, or something around it that bounds how much of it runs at a time."""


def canonical(purpose: str, **fields: Any) -> bytes:
    """One byte string for one set of fields: what is authenticated beside a ciphertext."""
    content = {"purpose": f"mailseal {purpose}", "version": VERSION, **fields}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def check_password(password: bytes) -> None:
    """Raise BadPassword for what can never be one."""
    if not password:
        raise BadPassword("the password is empty")
    if len(password) > MAX_PASSWORD:
        raise BadPassword(f"the password has {len(password)} bytes, at most {MAX_PASSWORD} may be")
    if any(byte in password for byte in b"\0\r\n"):
        raise BadPassword("the password holds a NUL or a line end")


def check_label(label: str) -> str:
    """A label is one short line of text; it may be empty.  Raises UsageError."""
    if len(label) > MAX_LABEL or any(unicodedata.category(c).startswith("C") for c in label):
        raise UsageError(f"a label is one line of at most {MAX_LABEL} letters")
    return label


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
        """Wrap a master key.  Costs one Argon2id.  Raises BadPassword, UsageError."""
        check_password(password)
        salt, nonce = os.urandom(SALT_SIZE), os.urandom(NONCE_SIZE)
        cost = dataclasses.replace(cost, name="stored")
        bare = cls(slot_id, kind, check_label(label), created, cost, salt, b"", nonce, b"")
        derived = derive(password, salt, cost, 32 + CHECK_SIZE)
        wrapped = AESGCM(derived[:32]).encrypt(nonce, bytes(master), bare._associated(user))
        return dataclasses.replace(bare, check=derived[32:], wrapped=wrapped)

    def open(self, password: bytes, user: str, derive: Derive = kdf.derive) -> bytearray | None:
        """The master key, or None for a wrong password.  Costs one Argon2id."""
        derived = derive(password, self.salt, self.cost, 32 + CHECK_SIZE)
        if not hmac.compare_digest(derived[32:], self.check):
            return None
        try:
            opened = AESGCM(derived[:32]).decrypt(self.nonce, self.wrapped, self._associated(user))
        except InvalidTag:
            raise Damaged(f"slot {self.id} of {user} is damaged") from None
        return bytearray(opened)

    def _associated(self, user: str) -> bytes:
        return canonical(
            "slot",
            user=user,
            id=self.id,
            kind=self.kind,
            label=self.label,
            created=self.created,
            **_kdf_fields(self.cost, self.salt),
        )

    def as_json(self) -> dict[str, Any]:
        """What is stored."""
        return {
            "id": self.id,
            "kind": self.kind,
            "label": self.label,
            "created": self.created,
            **_kdf_fields(self.cost, self.salt),
            "check": self.check.hex(),
            "nonce": self.nonce.hex(),
            "wrapped": self.wrapped.hex(),
        }


@dataclasses.dataclass(frozen=True)
class EscrowSlot:
    """Opens with the organisation's offline private key."""

    id: str
    label: str
    created: int
    key_id: bytes
    ephemeral: bytes
    nonce: bytes
    wrapped: bytes
    kind: str = "escrow"

    @classmethod
    def seal(
        cls,
        master: bytes | bytearray,
        public: PublicKey,
        *,
        user: str,
        slot_id: str,
        label: str,
        created: int,
    ) -> EscrowSlot:
        """Wrap a master key to a public key."""
        ephemeral = PrivateKey.generate(public.curve.name)
        shared = ephemeral.exchange(public.key)
        bare = cls(
            slot_id,
            check_label(label),
            created,
            public.key_id,
            ephemeral.public.spki,
            os.urandom(NONCE_SIZE),
            b"",
        )
        key = _escrow_key(shared, bare, user)
        wrapped = AESGCM(key).encrypt(bare.nonce, bytes(master), bare._associated(user))
        return dataclasses.replace(bare, wrapped=wrapped)

    def open(self, private: PrivateKey, user: str) -> bytearray:
        """The master key.  Raises NoKey for another key, Damaged when the wrap does not open."""
        if private.key_id != self.key_id:
            raise NoKey("this slot is sealed to another escrow key")
        peer = PublicKey.from_spki(self.ephemeral)
        if peer.curve != private.curve:
            raise Damaged(f"slot {self.id} of {user} is damaged")
        key = _escrow_key(private.exchange(peer.key), self, user)
        try:
            return bytearray(AESGCM(key).decrypt(self.nonce, self.wrapped, self._associated(user)))
        except InvalidTag:
            raise Damaged(f"slot {self.id} of {user} is damaged") from None

    def _associated(self, user: str) -> bytes:
        return canonical(
            "slot",
            user=user,
            id=self.id,
            kind=self.kind,
            label=self.label,
            created=self.created,
            key_id=self.key_id.hex(),
            ephemeral=self.ephemeral.hex(),
        )

    def as_json(self) -> dict[str, Any]:
        """What is stored."""
        return {
            "id": self.id,
            "kind": self.kind,
            "label": self.label,
            "created": self.created,
            "key_id": self.key_id.hex(),
            "ephemeral": self.ephemeral.hex(),
            "nonce": self.nonce.hex(),
            "wrapped": self.wrapped.hex(),
        }


Slot = PasswordSlot | EscrowSlot


def from_json(fields: Any) -> Slot:
    """Read a stored slot strictly.  Raises Damaged."""
    try:
        if fields["kind"] == "escrow":
            slot: Slot = EscrowSlot(
                fields["id"],
                fields["label"],
                fields["created"],
                bytes.fromhex(fields["key_id"]),
                bytes.fromhex(fields["ephemeral"]),
                bytes.fromhex(fields["nonce"]),
                bytes.fromhex(fields["wrapped"]),
            )
        else:
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
            )
    except (KeyError, TypeError, ValueError):
        raise Damaged("a slot has wrong fields") from None
    if not _sane(slot) or slot.as_json() != fields:
        raise Damaged("a slot has wrong fields")
    return slot


def _sane(slot: Slot) -> bool:
    """Sizes and types; the wraps are authenticated, this only keeps the code from surprises."""
    texts = all(isinstance(text, str) for text in (slot.id, slot.kind, slot.label))
    if not texts or type(slot.created) is not int or not 0 <= slot.created < 1 << 40:
        return False
    if len(slot.nonce) != NONCE_SIZE or len(slot.wrapped) != MASTER_SIZE + TAG_SIZE:
        return False
    if not 1 <= len(slot.id) <= 16 or len(slot.label) > MAX_LABEL:
        return False
    if isinstance(slot, EscrowSlot):
        return len(slot.key_id) == 32
    cost = (slot.cost.memory_kib, slot.cost.passes, slot.cost.lanes)
    return (
        slot.kind in PASSWORD_KINDS
        and len(slot.salt) == SALT_SIZE
        and len(slot.check) == CHECK_SIZE
        and all(type(number) is int for number in cost)
    )


def _kdf_fields(cost: kdf.Profile, salt: bytes) -> dict[str, Any]:
    return {
        "kdf": "argon2id",
        "kdf_version": kdf.VERSION,
        "memory_kib": cost.memory_kib,
        "passes": cost.passes,
        "lanes": cost.lanes,
        "salt": salt.hex(),
    }


def _escrow_key(shared: bytes, slot: EscrowSlot, user: str) -> bytes:
    """HKDF-SHA256 of the ECDH secret, 32 bytes, bound to both public keys and the slot."""
    info = slot._associated(user)
    salt = hashlib.sha256(info).digest()
    return HKDF(hashes.SHA256(), 32, salt, b"mailseal escrow key").derive(shared)
