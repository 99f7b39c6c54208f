"""Sealed mail: vectors made by Dovecot, all kinds of faults, streaming."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailseal.crypto import dcrypt
from mailseal.crypto.dcrypt import inspect, open_sealed, seal, seal_stream
from mailseal.crypto.eckeys import CURVES, Curve, PrivateKey
from mailseal.crypto.message_secret import MessageSecret, check_hash
from mailseal.errors import Damaged, MailsealError, NoKey, NotSealed

VECTORS = json.loads(
    (Path(__file__).parent / "vectors" / "dovecot-2.3.json").read_text(encoding="utf-8")
)
KEY = PrivateKey.generate()
MAIL = b"Subject: hello\n\nworld\n"
SEALED = seal(KEY.public, MAIL)


def opened(data: bytes, *keys: PrivateKey) -> bytes:
    return b"".join(open_sealed(io.BytesIO(data), keys or [KEY]))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["curve"])
def test_opens_what_dovecot_sealed(vector: dict[str, str]) -> None:
    key = PrivateKey.parse(vector["private key"])
    assert opened(base64.b64decode(vector["sealed"]), key) == vector["plaintext"].encode()


@pytest.mark.parametrize(
    ("curve", "size"), [("prime256v1", 255), ("secp384r1", 287), ("secp521r1", 323)]
)
def test_header_size_and_round_trip(curve: str, size: int) -> None:
    key = PrivateKey.generate(curve)
    sealed = seal(key.public, MAIL)
    info = inspect(sealed)
    assert (info.header_size, info.key_ids, info.rounds) == (size, (key.key_id,), 1)
    assert len(sealed) == size + len(MAIL) + dcrypt.TAG_SIZE
    assert opened(sealed, key) == MAIL


def test_check_hash_is_the_chain_of_the_format() -> None:
    digest = hashlib.sha256(b"s" * 60).digest()
    for i in range(1, 2049):
        digest = hashlib.sha256(digest + i.to_bytes(4, "big")).digest()
    assert check_hash(b"s" * 60) == digest


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=8))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    sealed = b"".join(bytes(piece) for piece in seal_stream(KEY.public, pieces))
    assert opened(sealed) == b"".join(pieces)


def test_large_pieces() -> None:
    pieces = [b"a" * 65536, b"b" * 65537, b"", b"c" * 200_000]
    sealed = b"".join(bytes(piece) for piece in seal_stream(KEY.public, pieces))
    assert opened(sealed) == b"".join(pieces)


def test_each_mail_has_its_own_secret() -> None:
    again = seal(KEY.public, MAIL)
    assert inspect(again).records != inspect(SEALED).records
    assert again[255:] != SEALED[255:]


def test_a_secret_seals_once() -> None:
    secret = MessageSecret(KEY.public.curve)
    seal(KEY.public, MAIL, secret=secret)
    with pytest.raises(RuntimeError):
        seal(KEY.public, MAIL, secret=secret)


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_a_secret_made_ahead_for_another_curve(curve: Curve) -> None:
    assert opened(seal(KEY.public, MAIL, secret=MessageSecret(curve))) == MAIL


def test_every_flipped_bit_is_refused() -> None:
    for index in range(len(SEALED)):
        changed = bytearray(SEALED)
        changed[index] ^= 1 << (index % 8)
        with pytest.raises((Damaged, NotSealed, NoKey)):
            opened(bytes(changed))


def test_every_truncation_is_refused() -> None:
    for size in range(len(SEALED)):
        with pytest.raises((Damaged, NotSealed)):
            opened(SEALED[:size])


def test_anything_appended_is_refused() -> None:
    with pytest.raises(Damaged):
        opened(SEALED + b"\0")


def test_files_of_other_formats_are_not_sealed() -> None:
    for foreign in (b"", b"From: a@b\n\nhi\n", b"CRYPTED\x03", b"\x00" * 500):
        with pytest.raises(NotSealed):
            opened(foreign)


def test_version_one_is_refused_with_a_sentence() -> None:
    with pytest.raises(Damaged, match="version 1"):
        inspect(dcrypt.MAGIC + b"\x01" + b"\0" * 100)


def test_another_key_does_not_open() -> None:
    with pytest.raises(NoKey, match=KEY.key_id.hex()):
        opened(SEALED, PrivateKey.generate())


@pytest.mark.parametrize("size", [8 << 20, (8 << 20) + 1, 20 << 20])
def test_nothing_is_returned_before_the_tag_is_checked(size: int) -> None:
    sealed = bytearray(seal(KEY.public, bytes(size)))
    sealed[-1] ^= 1
    pieces = open_sealed(io.BytesIO(bytes(sealed)), [KEY])
    with pytest.raises(Damaged):
        next(pieces)


def test_large_mail_comes_in_pieces() -> None:
    pieces = list(open_sealed(io.BytesIO(seal(KEY.public, bytes(20 << 20))), [KEY]))
    assert sum(map(len, pieces)) == 20 << 20
    assert max(map(len, pieces)) <= 1 << 20


def test_a_file_that_changes_while_it_is_read_ends_in_an_error() -> None:
    good = seal(KEY.public, bytes(20 << 20))
    source = io.BytesIO(good)
    pieces = open_sealed(source, [KEY])
    next(pieces)
    source.getbuffer()[-100] ^= 1
    with pytest.raises(Damaged):
        list(pieces)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_junk_after_the_magic_raises_one_of_ours(junk: bytes) -> None:
    with pytest.raises(MailsealError):
        opened(dcrypt.MAGIC + b"\x02" + junk)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_spliced_headers_raise_one_of_ours(data: st.DataObject) -> None:
    at = data.draw(st.integers(10, 254))
    patch = data.draw(st.binary(min_size=1, max_size=40))
    changed = SEALED[:at] + patch + SEALED[at + len(patch) :]
    if changed == SEALED:
        return
    with pytest.raises(MailsealError):
        opened(changed)


def test_all_curves_are_covered() -> None:
    assert {v["curve"] for v in VECTORS} == set(CURVES)
