# SPDX-License-Identifier: MIT
"""Elliptic-curve key pairs, their ids, and Dovecot's key strings.

A key id is the SHA-256 of the DER SubjectPublicKeyInfo with a named curve and
the point compressed.  Key strings are those of Dovecot's lib-dcrypt:

    public             2:<hex SPKI>:<hex key id>
    private            2:<curve OID>:0:<hex MPI>:<hex key id>
    private, password  2:<curve OID>:2:aes-256-ctr:<hex salt>:sha256:<rounds>:<hex>:<hex key id>

where the OID may also be a name (prime256v1), and an MPI is a u32 length and a
big-endian number (a leading 00 if its top bit is set).  PEM (PKCS#8,
SubjectPublicKeyInfo) and base64 of each form are read too.  P-256, P-384 and P-521:
X25519 crashes imap in Dovecot 2.3.19.

FAILURES
    Text that is not a key raises Damaged; a wrong password raises WrongPassword.
    No exception contains key material.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import hashlib
import hmac
import os
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mailseal.errors import Damaged, WrongPassword

_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")  # id-ecPublicKey, RFC 5480
_MAX_ROUNDS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Curve:
    """A named curve: its OID dotted and in DER, and the size of a coordinate in bytes."""

    name: str
    oid: str
    der: bytes
    size: int
    algorithm: ec.EllipticCurve

    @functools.cached_property
    def header(self) -> bytes:
        """What stands before the compressed point in the SPKI of a key."""
        point = bytes(1 + self.size)
        spki = _der(0x30, _der(0x30, _EC_PUBLIC_KEY + self.der) + _der(0x03, b"\0" + point))
        return spki[: -len(point)]


CURVES = {
    curve.name: curve
    for curve in (
        Curve(
            "prime256v1",
            "1.2.840.10045.3.1.7",
            bytes.fromhex("06082a8648ce3d030107"),
            32,
            ec.SECP256R1(),
        ),
        Curve("secp384r1", "1.3.132.0.34", bytes.fromhex("06052b81040022"), 48, ec.SECP384R1()),
        Curve("secp521r1", "1.3.132.0.35", bytes.fromhex("06052b81040023"), 66, ec.SECP521R1()),
    )
}
_BY_OID_OR_NAME = CURVES | {curve.oid: curve for curve in CURVES.values()}
# cryptography names P-256 secp256r1, OpenSSL and Dovecot prime256v1
_BY_LIBRARY_NAME = {curve.algorithm.name: curve for curve in CURVES.values()}


def uncompressed(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key's point (SEC 1): 65, 97 or 133 bytes."""
    return key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


@dataclasses.dataclass(frozen=True)
class PublicKey:
    """The public key of a pair, which seals."""

    curve: Curve
    spki: bytes
    key_id: bytes

    @functools.cached_property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The key object of the cryptography library."""
        return self.from_spki(self.spki).key

    @classmethod
    def of(cls, key: object) -> PublicKey:
        """Wrap a key object of the cryptography library."""
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _BY_LIBRARY_NAME:
            raise Damaged("not a public key on P-256, P-384 or P-521")
        curve = _BY_LIBRARY_NAME[key.curve.name]
        point = key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
        )
        made = cls.trusted(curve, curve.header + point)
        made.__dict__["key"] = key
        return made

    @classmethod
    def trusted(cls, curve: Curve, spki: bytes) -> PublicKey:
        """From the SPKI of another PublicKey; the point is read when it is needed."""
        return cls(curve, spki, hashlib.sha256(spki).digest())

    @classmethod
    def from_spki(cls, der: bytes) -> PublicKey:
        """Read a DER SubjectPublicKeyInfo, its point compressed or not."""
        for curve in CURVES.values():
            if der.startswith(curve.header) and len(der) == len(curve.header) + 1 + curve.size:
                return cls._from_point(curve, der)
        try:
            return cls.of(serialization.load_der_public_key(der))
        except (ValueError, UnsupportedAlgorithm):
            raise Damaged("not a public key") from None

    @classmethod
    def _from_point(cls, curve: Curve, der: bytes) -> PublicKey:
        """With the point compressed.  OpenSSL 3.0 reads the point in 40 us, the DER in 230 us."""
        point = der[len(curve.header) :]
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(curve.algorithm, point)
        except ValueError:
            raise Damaged("not a public key") from None
        made = cls.trusted(curve, der)
        made.__dict__["key"] = key
        return made

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read a PEM, a Dovecot key string, or base64 of one.

        A key string whose id is not that of its key raises Damaged.
        """
        text = _unwrap(text)
        if text.startswith("-----BEGIN"):
            try:
                return cls.of(serialization.load_pem_public_key(text.encode()))
            except (ValueError, UnsupportedAlgorithm):
                raise Damaged("not a public key") from None
        match = re.fullmatch(r"2:([0-9a-fA-F]{2,2000}):([0-9a-fA-F]{64})", text)
        if match is None or len(match[1]) % 2:
            raise Damaged("not a public key")
        public = cls.from_spki(bytes.fromhex(match[1]))
        if public.key_id != bytes.fromhex(match[2]):
            raise Damaged("a public key does not match its key id")
        return public

    @property
    def point(self) -> bytes:
        """The point, uncompressed (SEC 1): 65, 97 or 133 bytes."""
        return uncompressed(self.key)

    def dovecot_string(self) -> str:
        """The key string for Dovecot's settings and userdb fields."""
        return f"2:{self.spki.hex()}:{self.key_id.hex()}"


class PrivateKey:
    """The private key of a pair, which opens.  Its repr shows only the key id."""

    def __init__(self, public: PublicKey) -> None:
        self.public = public
        self.curve = public.curve

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey) -> PrivateKey:
        """Wrap a key object of the cryptography library."""
        made = cls(PublicKey.of(key.public_key()))
        made.__dict__["key"] = key
        return made

    @classmethod
    def trusted(cls, public: PublicKey, scalar: bytes) -> PrivateKey:
        """From the numbers of another PrivateKey, which match; no point is computed."""
        made = cls(public)
        made.__dict__["scalar"] = scalar
        return made

    @functools.cached_property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The key object of the cryptography library."""
        return ec.derive_private_key(int.from_bytes(self.scalar, "big"), self.curve.algorithm)

    @functools.cached_property
    def scalar(self) -> bytes:
        """The private number, big-endian, as long as the curve's coordinates."""
        return self.key.private_numbers().private_value.to_bytes(self.curve.size, "big")

    def __repr__(self) -> str:
        return f"<PrivateKey {self.key_id.hex()}>"

    @classmethod
    def generate(cls, curve: str = "prime256v1") -> PrivateKey:
        """A new key pair on a curve of CURVES.  Took 0.06 ms for P-256."""
        return cls.of(ec.generate_private_key(CURVES[curve].algorithm))

    @classmethod
    def from_scalar(cls, curve: str, scalar: bytes | bytearray) -> PrivateKey:
        """From the private number, big-endian."""
        try:
            number = int.from_bytes(scalar, "big")
            return cls.of(ec.derive_private_key(number, CURVES[curve].algorithm))
        except (ValueError, KeyError):
            raise Damaged("not a private key") from None

    @property
    def key_id(self) -> bytes:
        """Id of the pair, 32 bytes."""
        return self.public.key_id

    def exchange(self, peer: ec.EllipticCurvePublicKey) -> bytes:
        """ECDH: the shared x coordinate, as long as the curve's coordinates."""
        return self.key.exchange(ec.ECDH(), peer)

    def dovecot_string(self) -> str:
        """The key string in clear.  Anybody who has it can read the mail."""
        return f"2:{self.curve.oid}:0:{self._mpi().hex()}:{self.key_id.hex()}"

    def dovecot_wrapped(
        self, password: bytes, *, rounds: int = 1, salt: bytes | None = None
    ) -> str:
        """The key string sealed with a password.

        One round is enough only for a random password of full strength.  Never use
        the same salt twice with the same password: CTR would reveal the difference of
        the two keys.
        """
        salt = os.urandom(8) if salt is None else salt
        return _wrapped(self.public, salt, rounds, _ctr(password, salt, rounds, self._mpi()))

    @classmethod
    def parse(cls, text: str, password: bytes | None = None) -> PrivateKey:
        """Read a PEM (PKCS#8), a Dovecot key string, or base64 of one."""
        text = _unwrap(text)
        if text.startswith("-----BEGIN"):
            return cls._from_pem(text, password)
        parts = text.split(":")
        try:
            curve = _BY_OID_OR_NAME[parts[1]]
            key_id = bytes.fromhex(parts[-1])
            if parts[0] == "2" and parts[2] == "0" and len(parts) == 5:
                mpi = bytes.fromhex(parts[3])
            elif parts[0] == "2" and parts[2] == "2" and len(parts) == 9:
                if (parts[3], parts[5]) != ("aes-256-ctr", "sha256"):
                    raise Damaged("a private key is wrapped with an unknown cipher")
                rounds = int(parts[6])
                if not 1 <= rounds <= _MAX_ROUNDS:
                    raise Damaged("a private key with too many PBKDF2 rounds")
                if password is None:
                    raise WrongPassword("this private key needs a password")
                mpi = _ctr(password, bytes.fromhex(parts[4]), rounds, bytes.fromhex(parts[7]))
            else:
                raise Damaged("not a private key")
        except (ValueError, IndexError, KeyError):
            raise Damaged("not a private key") from None
        wrong: WrongPassword | Damaged
        if parts[2] == "2":
            wrong = WrongPassword("the private key does not open with this password")
        else:
            wrong = Damaged("a private key does not match its key id")
        size = int.from_bytes(mpi[:4], "big")
        if size != len(mpi) - 4 or size > curve.size + 1:
            raise wrong
        try:
            private = cls.from_scalar(curve.name, mpi[4:])
        except Damaged:
            raise wrong from None
        if not hmac.compare_digest(private.key_id, key_id):
            raise wrong
        return private

    @classmethod
    def _from_pem(cls, text: str, password: bytes | None) -> PrivateKey:
        try:
            key = serialization.load_pem_private_key(text.encode(), password)
        except TypeError:
            raise WrongPassword("the private key needs a password, or has none") from None
        except (ValueError, UnsupportedAlgorithm):
            raise Damaged("not a private key, or a wrong password") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Damaged("not a private key on P-256, P-384 or P-521")
        return cls.of(key)

    def _mpi(self) -> bytes:
        number = int.from_bytes(self.scalar, "big")
        raw = number.to_bytes(number.bit_length() // 8 + 1, "big")
        return len(raw).to_bytes(4, "big") + raw


def longest_wrapped(public: PublicKey, salt_size: int) -> int:
    """Largest size in bytes of dovecot_wrapped() with one round, for this public key."""
    return len(_wrapped(public, bytes(salt_size), 1, bytes(4 + public.curve.size + 1)))


def _wrapped(public: PublicKey, salt: bytes, rounds: int, sealed: bytes) -> str:
    # Dovecot accepts a name or an OID for the curve; the name is shorter.
    return (
        f"2:{public.curve.name}:2:aes-256-ctr:{salt.hex()}:sha256:{rounds}:"
        f"{sealed.hex()}:{public.key_id.hex()}"
    )


def _ctr(password: bytes, salt: bytes, rounds: int, data: bytes) -> bytes:
    """AES-256-CTR with a key from PBKDF2(password, salt), to seal and to open."""
    derived = hashlib.pbkdf2_hmac("sha256", password, salt, rounds, 48)
    cipher = Cipher(algorithms.AES(derived[:32]), modes.CTR(derived[32:])).encryptor()
    return cipher.update(data) + cipher.finalize()


def _unwrap(text: str) -> str:
    """Decode base64, if the key is encoded."""
    text = text.strip()
    if text.startswith(("-----BEGIN", "2:")):
        return text
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode("ascii").strip()
    except (binascii.Error, ValueError):
        raise Damaged("not a key") from None


def _der(tag: int, content: bytes) -> bytes:
    """One DER element of under 256 bytes of content."""
    size = len(content)
    return bytes((tag, size) if size < 128 else (tag, 0x81, size)) + content
