# SPDX-License-Identifier: MIT
"""Writes and reads Dovecot's format for sealed mail, version 2.

    magic(9) version(1) flags(4) header length(4) cipher OID hash OID rounds(4)
    key data length(4) key data | ciphertext, as long as the plaintext | GCM tag(16)

All integers are big-endian.  A message secret of 60 random bytes (32 AES-256
key, 12 GCM nonce, 16 AAD) is wrapped to the recipient's public key by an
ephemeral ECDH; the whole message is one AES-256-GCM ciphertext.

CONTRACT
    A message secret must seal only one message: a second one
    with the same key and nonce would reveal both.
    open_sealed() yields nothing before it has checked the tag.

FAILURES
    NotSealed: not this format at all.  Damaged: it is, but truncated, changed,
    or of a kind mailseal does not read.  NoKey: sealed to another key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.crypto.message_secret import SECRET_SIZE, MessageSecret, check_hash
from mailseal.errors import Damaged, NoKey, NotSealed

MAGIC = b"CRYPTED\x03\x07"
VERSION = 2
FLAG_AEAD = 2
AES_256_GCM = bytes.fromhex("060960864801650304012e")
SHA_256 = bytes.fromhex("0609608648016503040201")
TAG_SIZE = 16
ROUNDS = 1
KEY_TYPE_EC = 2
MAX_HEADER = 4096  # mailseal's have 255 to 323 bytes; Dovecot's with RSA-4096 about 650

_FIXED = MAGIC + bytes((VERSION,)) + FLAG_AEAD.to_bytes(4, "big")
_FIXED_SIZE = 48  # up to and with the key data length
_MAX_ROUNDS = 100_000
_PIECE = 1 << 20
_BLOCK = 1 << 16


def seal(public: PublicKey, data: bytes, *, secret: MessageSecret | None = None) -> bytes:
    """Seal a whole mail at once.  For 4 KB this takes two thirds of seal_stream()'s time."""
    header, raw = _begin(public, secret)
    return header + AESGCM(raw[:32]).encrypt(raw[32:44], data, raw[44:])


def seal_stream(
    public: PublicKey, pieces: Iterable[bytes], *, secret: MessageSecret | None = None
) -> Iterator[bytes | memoryview]:
    """Seal a mail in pieces; see Sealing.pieces()."""
    return Sealing(public, secret=secret).pieces(pieces)


class Sealing:
    """Seals one mail, and can read it back to verify it, without the recipient's private key."""

    def __init__(self, public: PublicKey, *, secret: MessageSecret | None = None) -> None:
        self.header, self._raw = _begin(public, secret)

    def pieces(self, plain: Iterable[bytes]) -> Iterator[bytes | memoryview]:
        """Header, the ciphertext of each piece, tag.  All at once if there is one small piece.

        Use each piece before you ask for the next one: they share one buffer.  With a new
        buffer for each 256 KB, the kernel needs six times as long to clear the memory
        as the cipher (1 MB: 2.6 ms; with one buffer 0.4 ms).
        """
        raw, plain = self._raw, iter(plain)
        first, second = next(plain, b""), next(plain, None)
        if second is None and len(first) <= _BLOCK:
            yield self.header + AESGCM(raw[:32]).encrypt(raw[32:44], first, raw[44:])
            return
        yield self.header
        gcm = Cipher(algorithms.AES(raw[:32]), modes.GCM(raw[32:44])).encryptor()
        gcm.authenticate_additional_data(raw[44:])
        buffer = bytearray(_BLOCK + 16)  # the library needs one more block
        out = memoryview(buffer)
        for piece in itertools.chain((first, second or b""), plain):
            view = memoryview(piece)
            for start in range(0, len(view), _BLOCK):
                part = view[start : start + _BLOCK]
                yield out[: gcm.update_into(part, buffer)]
        gcm.finalize()
        yield gcm.tag

    def read_back(self, source: BinaryIO) -> Iterator[bytes]:
        """The plaintext of the written file, without the recipient's key.

        Raises Damaged if header, ciphertext or tag are not those of this mail.
        """
        source.seek(0)
        start = source.read(_BLOCK)
        if not start.startswith(self.header):
            raise Damaged("the header of a sealed mail is not the one that was written")
        yield from _decrypted(source, start, len(self.header), self._raw)


def _begin(public: PublicKey, secret: MessageSecret | None) -> tuple[bytes, bytes]:
    """The header of a mail for `public`, and the 60 bytes that are wrapped in it."""
    secret = secret or MessageSecret(public.curve)
    raw = secret.take(public.curve)
    shared = secret.ephemeral.exchange(ec.ECDH(), public.key)
    point = secret.point
    cipher = _wrapping(shared, point, ROUNDS).encryptor()
    wrapped = cipher.update(raw + b"\x04" * 4) + cipher.finalize()  # PKCS#7 to 64 bytes
    key_data = b"".join(
        (
            bytes((1, KEY_TYPE_EC)),
            public.key_id,
            len(point).to_bytes(4, "big"),
            point,
            len(wrapped).to_bytes(4, "big"),
            wrapped,
            len(secret.check).to_bytes(4, "big"),
            secret.check,
        )
    )
    header = b"".join(
        (
            _FIXED,
            (_FIXED_SIZE + len(key_data)).to_bytes(4, "big"),
            AES_256_GCM,
            SHA_256,
            ROUNDS.to_bytes(4, "big"),
            len(key_data).to_bytes(4, "big"),
            key_data,
        )
    )
    return header, raw


def _wrapping(shared: bytes, point: bytes, rounds: int) -> Cipher[modes.CBC]:
    """The cipher that wraps a secret.

    One round is enough: `shared` is a fresh ECDH result, not a password, and
    2048 rounds would take 0.9 ms for each mail, when it is written and when it is read.
    """
    derived = hashlib.pbkdf2_hmac("sha256", shared, point, rounds, 48)
    return Cipher(algorithms.AES(derived[:32]), modes.CBC(derived[32:]))


@dataclasses.dataclass(frozen=True)
class KeyRecord:
    """A key record: key type (1 RSA, 2 EC), key id, and the wrapped secret."""

    key_type: int
    key_id: bytes
    ephemeral: bytes
    wrapped: bytes
    check: bytes


@dataclasses.dataclass(frozen=True)
class Info:
    """The content of the header of a sealed file.  It is not authenticated."""

    version: int
    flags: int
    header_size: int
    rounds: int
    records: tuple[KeyRecord, ...]

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """Ids of the keys that can open the mail, 32 bytes each."""
        return tuple(record.key_id for record in self.records)


def is_sealed(start: bytes) -> bool:
    """Whether the beginning of a file is that of a sealed mail, of any version."""
    return start.startswith(MAGIC)


def inspect(start: bytes) -> Info:
    """Read the header from the first MAX_HEADER bytes (or all, if shorter) of a file."""
    if not is_sealed(start):
        raise NotSealed("not a sealed mail")
    if len(start) < _FIXED_SIZE:
        raise Damaged("a sealed mail is truncated in its header")
    if start[9] != VERSION:
        raise Damaged(f"a sealed mail of format version {start[9]}; mailseal reads version 2")
    flags, header_size = _u32(start, 10), _u32(start, 14)
    if flags != FLAG_AEAD or start[18:29] != AES_256_GCM or start[29:40] != SHA_256:
        raise Damaged("a sealed mail with another cipher than AES-256-GCM and SHA-256")
    rounds, key_size = _u32(start, 40), _u32(start, 44)
    if header_size != _FIXED_SIZE + key_size or header_size > MAX_HEADER:
        raise Damaged("a sealed mail with a damaged header")
    if not 1 <= rounds <= _MAX_ROUNDS:
        raise Damaged("a sealed mail with too many PBKDF2 rounds")
    if len(start) < header_size:
        raise Damaged("a sealed mail is truncated in its header")
    return Info(start[9], flags, header_size, rounds, _records(start[_FIXED_SIZE:header_size]))


def _records(data: bytes) -> tuple[KeyRecord, ...]:
    reader = io.BytesIO(data)

    def take(size: int) -> bytes:
        piece = reader.read(size)
        if len(piece) != size:
            raise Damaged("a sealed mail with a damaged key record")
        return piece

    def field() -> bytes:
        return take(_u32(take(4), 0))

    count = take(1)[0]
    records = tuple(
        KeyRecord(take(1)[0], take(32), field(), field(), field()) for _ in range(count)
    )
    if not records or reader.read(1):
        raise Damaged("a sealed mail with a damaged key record")
    return records


def open_sealed(source: BinaryIO, keys: Iterable[PrivateKey]) -> Iterator[bytes]:
    """The plaintext of a seekable file, in pieces; see Opening.pieces()."""
    return Opening(keys).pieces(source)


class Opening:
    """Opens one sealed mail, also several times: its secret is unwrapped once."""

    def __init__(self, keys: Iterable[PrivateKey]) -> None:
        self._keys = keys
        self._header = b""
        self._secret = b""

    def pieces(self, source: BinaryIO) -> Iterator[bytes]:
        """The plaintext of a seekable file, in pieces, only after its tag was checked.

        Files up to 8 MiB are read once.  Larger files are read twice, first to check the tag
        and then to return the plaintext, so that memory is limited and no plaintext is written
        to a file.  If the file changes in between, Damaged is raised at the end.
        """
        start = self._begun(source)
        if len(start) < _BLOCK:
            yield from _decrypted(source, start, len(self._header), self._secret)
            return
        size = source.seek(0, io.SEEK_END)
        if size <= 8 * _PIECE:
            yield b"".join(_decrypted(source, start, len(self._header), self._secret))
            return
        for _ in _decrypted(source, start, len(self._header), self._secret):
            pass
        yield from _decrypted(source, start, len(self._header), self._secret)

    def unproven(self, source: BinaryIO) -> Iterator[bytes]:
        """The plaintext in pieces BEFORE its tag is checked; Damaged is raised at the end.

        Only for checks that do not use the content.  The check hash of the secret is computed too,
        although the tag authenticates the secret: Dovecot does not open a mail with a wrong
        check hash.
        """
        start = self._begun(source)
        yield from _decrypted(source, start, len(self._header), self._secret)

    def _begun(self, source: BinaryIO) -> bytes:
        """Read the start of the file, all of it if there are less than _BLOCK bytes."""
        source.seek(0)
        start = source.read(_BLOCK)
        if not self._secret or not start.startswith(self._header):
            info = inspect(start[:MAX_HEADER])
            self._header = start[: info.header_size]
            self._secret = _unwrap(info, self._keys)
        return start


def _decrypted(source: BinaryIO, start: bytes, header: int, secret: bytes) -> Iterator[bytes]:
    """Pieces of plaintext of a file that begins with `start`, after a header of this size.

    The tag is checked after the last one.  A small file was read completely.
    """
    size = len(start) if len(start) < _BLOCK else source.seek(0, io.SEEK_END)
    if size < header + TAG_SIZE:
        raise Damaged("a sealed mail is truncated")
    try:
        if size == len(start):
            yield AESGCM(secret[:32]).decrypt(secret[32:44], start[header:], secret[44:])
            return
        end = size - TAG_SIZE
        source.seek(end)
        tag = source.read(TAG_SIZE)
        source.seek(header)
        gcm = Cipher(algorithms.AES(secret[:32]), modes.GCM(secret[32:44], tag)).decryptor()
        gcm.authenticate_additional_data(secret[44:])
        left = end - header
        while left:
            piece = source.read(min(left, _PIECE))
            if not piece:
                raise Damaged("a sealed mail is truncated")
            left -= len(piece)
            yield gcm.update(piece)
        gcm.finalize()
    except InvalidTag:
        raise Damaged("a sealed mail was changed or truncated: its tag is wrong") from None


def _unwrap(info: Info, keys: Iterable[PrivateKey]) -> bytes:
    by_id = {key.key_id: key for key in keys}
    for record in info.records:
        key = by_id.get(record.key_id)
        if key is not None and record.key_type == KEY_TYPE_EC:
            return _unwrap_record(record, key, info.rounds)
    raise NoKey(f"sealed to another key: {info.records[0].key_id.hex()}")


def _unwrap_record(record: KeyRecord, key: PrivateKey, rounds: int) -> bytes:
    try:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(key.curve.algorithm, record.ephemeral)
        shared = key.exchange(peer)
        cipher = _wrapping(shared, record.ephemeral, rounds).decryptor()
        padded = cipher.update(record.wrapped) + cipher.finalize()
    except ValueError:
        raise Damaged("a sealed mail with a damaged key record") from None
    secret = padded[:SECRET_SIZE]
    if padded[SECRET_SIZE:] != b"\x04" * 4 or not hmac.compare_digest(
        check_hash(secret), record.check
    ):
        raise Damaged("a sealed mail with a damaged key record")
    return secret


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "big")
