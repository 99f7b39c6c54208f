# SPDX-License-Identifier: MIT
"""The secret of one sealed mail, made in advance or when it is needed.

60 random bytes: 32 AES-256 key, 12 GCM nonce, 16 AAD.  The header of a mail also contains
a check hash, with which Dovecot verifies the unwrapped secret.

CONTRACT
    A secret seals only one mail.  take() raises RuntimeError the second time: two mails
    with the same key and nonce would reveal both.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec

from mailseal.crypto.eckeys import Curve, uncompressed

SECRET_SIZE = 60
_COUNTERS = tuple(i.to_bytes(4, "big") for i in range(1, 2049))


def _builtin_sha256() -> Callable[[bytes], hashlib._Hash]:
    """CPython's own SHA-256, faster for 36 bytes than OpenSSL's; 3.12 renamed the module."""
    for name in ("_sha256", "_sha2"):
        with contextlib.suppress(ImportError, AttributeError):
            made: Callable[[bytes], hashlib._Hash] = importlib.import_module(name).sha256
            return made
    return hashlib.sha256


_sha256 = _builtin_sha256()


def check_hash(secret: bytes) -> bytes:
    """The hash, repeated 2,048 times, with which Dovecot verifies an unwrapped secret.

    The number is fixed by the format.  2048 rounds took 0.55 ms with CPython's
    builtin SHA-256 and 0.95 ms with OpenSSL's through hashlib.
    """
    sha256 = _sha256
    digest = sha256(secret).digest()
    for counter in _COUNTERS:
        digest = sha256(digest + counter).digest()
    return digest


class MessageSecret:
    """Key, nonce and AAD of one message, their check hash, and an ephemeral key pair.

    Making one is most of the work of sealing a small mail.  It needs only the
    recipient's curve, so it can be done in advance.
    """

    __slots__ = ("_secret", "check", "curve", "ephemeral", "point")

    def __init__(self, curve: Curve) -> None:
        self._secret: bytes | None = os.urandom(SECRET_SIZE)
        self.check = check_hash(self._secret)
        self._new_ephemeral(curve)

    def _new_ephemeral(self, curve: Curve) -> None:
        self.curve = curve
        self.ephemeral = ec.generate_private_key(curve.algorithm)
        self.point = uncompressed(self.ephemeral.public_key())

    def take(self, curve: Curve) -> bytes:
        """Return the 60 bytes, once, with an ephemeral key on `curve`."""
        secret, self._secret = self._secret, None
        if secret is None:
            raise RuntimeError("a message secret seals only one mail")
        if curve is not self.curve:
            self._new_ephemeral(curve)
        return secret
