# SPDX-License-Identifier: MIT
"""A compressed point is read without the DER reader of OpenSSL: same keys, same refusals."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives import serialization

from mailseal.crypto.eckeys import CURVES, Curve, PrivateKey, PublicKey
from mailseal.errors import Damaged
from mailseal.keys.public import FORMAT, VERSION, encode

curves = pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)


def by_openssl(der: bytes) -> PublicKey | None:
    """As the DER reader reads it; None if it refuses it."""
    try:
        return PublicKey.of(serialization.load_der_public_key(der))
    except (ValueError, Damaged):
        return None


def read(der: bytes) -> PublicKey | None:
    try:
        return PublicKey.from_spki(der)
    except Damaged:
        return None


@curves
def test_keys_are_the_same(curve: Curve) -> None:
    for _ in range(20):
        made = PrivateKey.generate(curve.name).public
        found = read(made.spki)
        assert found is not None and found == made == by_openssl(made.spki)
        assert found.point == made.point
        full = made.key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assert read(full) == made


@curves
def test_the_same_points_are_refused(curve: Curve) -> None:
    refused = 0
    made = PrivateKey.generate(curve.name).public.spki
    size, start = curve.size, len(curve.header)
    xs = [bytes(size), b"\xff" * size, *(number.to_bytes(size, "big") for number in range(1, 30))]
    for kind in (0, 1, 2, 3, 4, 6, 7, 255):
        for x in xs:
            der = made[:start] + bytes([kind]) + x
            assert read(der) == by_openssl(der)
            refused += read(der) is None
    assert 0 < refused < 8 * len(xs)
    for der in (made[:-1], made + b"\0", made[:-size], b"", made[:start]):
        assert read(der) is None and by_openssl(der) is None


@pytest.mark.parametrize("user", ["a@b", 'quote"\\', "ümlaut", "\U0001f40e", "%s{}\x7f"])
def test_a_key_file_is_what_json_writes(user: str) -> None:
    key = PrivateKey.generate("prime256v1").public
    content = {
        "format": FORMAT,
        "version": VERSION,
        "user": user,
        "key_id": key.key_id.hex(),
        "spki": key.spki.hex(),
    }
    assert encode(user, key) == json.dumps(content, indent=1).encode() + b"\n"
