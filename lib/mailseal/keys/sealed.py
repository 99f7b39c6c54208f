# SPDX-License-Identifier: MIT
"""Stored private keys: each is sealed with a subkey of the keyring's master key.

AES-256-GCM with a random nonce; the associated data are user, key id, curve,
time, public key and position in the list.  list_tag() authenticates the list as a
whole, so that no pair can be removed or added without the master key.

FAILURES
    Damaged: a sealed key cannot be opened, or does not match its public key.
"""

from __future__ import annotations

import dataclasses
import hmac
import os
from collections.abc import Iterable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import Damaged
from mailseal.keys.slot import NONCE_SIZE, TAG_SIZE, canonical, subkey


@dataclasses.dataclass(frozen=True)
class SealedKey:
    """A key pair whose private number is sealed."""

    public: PublicKey
    created: int
    nonce: bytes
    sealed: bytes

    @classmethod
    def seal(cls, master: bytearray, key: PrivateKey, user: str, at: int, now: int) -> SealedKey:
        """Seal a private key as number `at` of the user's list."""
        bare = cls(key.public, now, os.urandom(NONCE_SIZE), b"")
        sealed = AESGCM(subkey(master, "private keys")).encrypt(
            bare.nonce, key.scalar, bare._associated(user, at)
        )
        return dataclasses.replace(bare, sealed=sealed)

    def open(self, master: bytearray, user: str, at: int) -> PrivateKey:
        """The private key.  Raises Damaged."""
        try:
            scalar = AESGCM(subkey(master, "private keys")).decrypt(
                self.nonce, self.sealed, self._associated(user, at)
            )
        except InvalidTag:
            raise Damaged(f"key {at + 1} of {user} is damaged") from None
        key = PrivateKey.from_scalar(self.public.curve.name, scalar)
        if key.public.spki != self.public.spki:
            raise Damaged(f"key {at + 1} of {user} is damaged")
        return key

    def _associated(self, user: str, at: int) -> bytes:
        return canonical("private key", user=user, at=at, **self.identity())

    def identity(self) -> dict[str, Any]:
        """The fields that can be read without the master key."""
        return {
            "id": self.public.key_id.hex(),
            "curve": self.public.curve.name,
            "created": self.created,
            "public": self.public.spki.hex(),
        }

    def as_json(self) -> dict[str, Any]:
        """The stored fields."""
        return {**self.identity(), "nonce": self.nonce.hex(), "sealed": self.sealed.hex()}

    @classmethod
    def from_json(cls, fields: Any) -> SealedKey:
        """Read a stored key strictly.  Raises Damaged."""
        try:
            key = cls(
                PublicKey.from_spki(bytes.fromhex(fields["public"])),
                fields["created"],
                bytes.fromhex(fields["nonce"]),
                bytes.fromhex(fields["sealed"]),
            )
        except (KeyError, TypeError, ValueError):
            raise Damaged("a key has wrong fields") from None
        sizes = (len(key.nonce), len(key.sealed) - TAG_SIZE)
        if sizes != (NONCE_SIZE, key.public.curve.size) or key.as_json() != fields:
            raise Damaged("a key has wrong fields")
        if type(key.created) is not int:
            raise Damaged("a key has wrong fields")
        return key


def list_tag(master: bytearray, user: str, keys: Iterable[SealedKey]) -> bytes:
    """HMAC-SHA256 over the list of keys, 32 bytes."""
    listed = [key.identity() for key in keys]
    return hmac.digest(
        subkey(master, "list of keys"), canonical("keys", user=user, keys=listed), "sha256"
    )
