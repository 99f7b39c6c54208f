"""Key pairs, key ids and Dovecot's key strings."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from hypothesis import given
from hypothesis import strategies as st

from mailseal.crypto.eckeys import CURVES, PrivateKey, PublicKey
from mailseal.errors import Damaged, MailsealError, WrongPassword

VECTORS = json.loads(
    (Path(__file__).parent / "vectors" / "dovecot-2.3.json").read_text(encoding="utf-8")
)
KEY = PrivateKey.generate()


@pytest.fixture(params=sorted(CURVES))
def key(request: pytest.FixtureRequest) -> PrivateKey:
    return PrivateKey.generate(request.param)


def test_key_id_is_the_one_dovecot_writes() -> None:
    for vector in VECTORS:
        key = PrivateKey.parse(vector["private key"])
        assert base64.b64decode(vector["sealed"])[50:82] == key.key_id


def test_private_forms_round_trip(key: PrivateKey) -> None:
    wrapped = key.dovecot_wrapped(b"one-time")
    for text, password in ((key.dovecot_string(), None), (wrapped, b"one-time")):
        for form in (text, base64.b64encode(text.encode()).decode()):
            again = PrivateKey.parse(form, password)
            assert (again.scalar, again.key_id) == (key.scalar, key.key_id)
    assert PrivateKey.from_scalar(key.curve.name, key.scalar).key_id == key.key_id
    assert len(key.scalar) == key.curve.size


def test_public_forms_round_trip(key: PrivateKey) -> None:
    public = key.public
    pem = public.key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
    for text in (public.dovecot_string(), pem, base64.b64encode(pem.encode()).decode()):
        assert PublicKey.parse(text).key_id == key.key_id
    uncompressed = public.key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert uncompressed != public.spki
    assert PublicKey.from_spki(uncompressed).spki == public.spki


def test_pem_private_key_is_read(key: PrivateKey) -> None:
    pem = key.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"pw"),
    ).decode()
    assert PrivateKey.parse(pem, b"pw").key_id == key.key_id
    with pytest.raises((Damaged, WrongPassword)):
        PrivateKey.parse(pem, b"other")
    with pytest.raises(WrongPassword):
        PrivateKey.parse(pem)


def test_wrong_password_is_told_from_damage() -> None:
    wrapped = KEY.dovecot_wrapped(b"right")
    for password in (b"wrong", b"", None):
        with pytest.raises(WrongPassword):
            PrivateKey.parse(wrapped, password)
    with pytest.raises(Damaged):
        PrivateKey.parse(wrapped.replace("aes-256-ctr", "aes-128-ctr"), b"right")


def test_a_swapped_key_id_is_noticed() -> None:
    other = PrivateKey.generate()
    with pytest.raises(Damaged):
        PrivateKey.parse(KEY.dovecot_string().replace(KEY.key_id.hex(), other.key_id.hex()))
    with pytest.raises(Damaged):
        PublicKey.parse(KEY.public.dovecot_string().replace(KEY.key_id.hex(), other.key_id.hex()))


def test_other_kinds_of_keys_are_refused() -> None:
    foreign: list[x25519.X25519PublicKey | ec.EllipticCurvePublicKey] = [
        x25519.X25519PrivateKey.generate().public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
    ]
    for key in foreign:
        der = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with pytest.raises(Damaged):
            PublicKey.from_spki(der)


@pytest.mark.parametrize(
    "text", ["", "x", "2:", "2:00:00", "-----BEGIN X-----", "AAAA", "2:1.2:0:00:00"]
)
def test_junk_is_refused(text: str) -> None:
    with pytest.raises(Damaged):
        PublicKey.parse(text)
    with pytest.raises(Damaged):
        PrivateKey.parse(text)


@given(st.text(max_size=100))
def test_any_text_raises_one_of_ours(text: str) -> None:
    for parse in (PublicKey.parse, PrivateKey.parse):
        with pytest.raises(MailsealError):
            parse(text)


def test_scalar_out_of_range_is_refused() -> None:
    for scalar in (bytes(32), b"\xff" * 32):
        with pytest.raises(Damaged):
            PrivateKey.from_scalar("prime256v1", scalar)


def test_repr_shows_no_secret() -> None:
    assert KEY.scalar.hex() not in repr(KEY)
    assert KEY.key_id.hex() in repr(KEY)


def test_the_mpi_has_a_leading_zero_when_its_top_bit_is_set() -> None:
    high = PrivateKey.from_scalar("prime256v1", b"\x80" + bytes(30) + b"\x01")
    low = PrivateKey.from_scalar("prime256v1", b"\x7f" + bytes(30) + b"\x01")
    assert high.dovecot_string().split(":")[3].startswith("0000002100")
    assert low.dovecot_string().split(":")[3].startswith("000000207f")
