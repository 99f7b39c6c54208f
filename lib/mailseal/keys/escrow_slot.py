# SPDX-License-Identifier: MIT
"""The escrow slot: the master key, sealed with the organisation's public key.

Ephemeral ECDH, HKDF-SHA256, AES-256-GCM.  The associated data of the wrap contains user,
slot id, label, time and both keys.  The slot contains the public key, so that it
can be made again for a new master key.

FAILURES
    open() raises NoKey for another key, and Damaged if the wrap cannot be opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import Damaged, NoKey
from mailseal.keys.slot import (
    MASTER_SIZE,
    NONCE_SIZE,
    TAG_SIZE,
    Credential,
    Derive,
    EscrowKey,
    SlotKind,
    associated,
    check_label,
    common,
)


@dataclasses.dataclass(frozen=True)
class EscrowSlot:
    """Opens with the organisation's offline private key."""

    id: str
    label: str
    created: int
    public: PublicKey
    ephemeral: bytes
    nonce: bytes
    wrapped: bytes
    tag: bytes = b""
    kind: str = "escrow"

    @property
    def key_id(self) -> bytes:
        """Id of the organisation's key pair, 32 bytes."""
        return self.public.key_id

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
            public,
            ephemeral.public.spki,
            os.urandom(NONCE_SIZE),
            b"",
        )
        key = _escrow_key(shared, bare, user)
        wrapped = AESGCM(key).encrypt(bare.nonce, bytes(master), bare._associated(user))
        return dataclasses.replace(bare, wrapped=wrapped)

    def open(self, private: PrivateKey, user: str) -> bytearray:
        """The master key.  Raises NoKey for another key, Damaged if the wrap cannot be opened."""
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

    def with_tag(self, tag: bytes) -> EscrowSlot:
        """A copy with this tag."""
        return dataclasses.replace(self, tag=tag)

    def takes(self, credential: Credential) -> bool:
        """Whether this is the private key of the escrow key pair."""
        return isinstance(credential, EscrowKey) and credential.private.key_id == self.key_id

    def unwrap(self, credential: Credential, user: str, derive: Derive) -> bytearray | None:
        """The master key, or None."""
        if not isinstance(credential, EscrowKey) or not self.takes(credential):
            return None
        return self.open(credential.private, user)

    def _associated(self, user: str) -> bytes:
        return associated(self, user, key_id=self.key_id.hex(), ephemeral=self.ephemeral.hex())

    def as_json(self) -> dict[str, Any]:
        """The stored fields."""
        return {
            **common(self),
            "public": self.public.spki.hex(),
            "ephemeral": self.ephemeral.hex(),
            "nonce": self.nonce.hex(),
            "wrapped": self.wrapped.hex(),
        }


def _escrow_key(shared: bytes, slot: EscrowSlot, user: str) -> bytes:
    """HKDF-SHA256 of the ECDH secret, 32 bytes, bound to both public keys and the slot."""
    info = slot._associated(user)
    salt = hashlib.sha256(info).digest()
    return HKDF(hashes.SHA256(), 32, salt, b"mailseal escrow key").derive(shared)


def _parse(fields: Mapping[str, Any]) -> EscrowSlot:
    slot = EscrowSlot(
        fields["id"],
        fields["label"],
        fields["created"],
        PublicKey.from_spki(bytes.fromhex(fields["public"])),
        bytes.fromhex(fields["ephemeral"]),
        bytes.fromhex(fields["nonce"]),
        bytes.fromhex(fields["wrapped"]),
        bytes.fromhex(fields["tag"]),
    )
    if (len(slot.nonce), len(slot.wrapped)) != (NONCE_SIZE, MASTER_SIZE + TAG_SIZE):
        raise ValueError
    return slot


KIND = SlotKind(
    "escrow", _parse, opens_mail=True, changes_slots=True, sets_login=True, second_way=True
)
