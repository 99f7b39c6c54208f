# SPDX-License-Identifier: MIT
"""A keyring opens only with the right secrets, and a secret is in no old copy after rekey."""

from __future__ import annotations

import dataclasses

import pytest

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import BadPassword, Damaged, NoKey, UsageError, WrongPassword
from mailseal.keys import escrow_slot
from mailseal.keys.escrow_slot import EscrowSlot
from mailseal.keys.keyring import Keyring
from mailseal.keys.password_slot import MAX_PASSWORD, PasswordSlot
from mailseal.keys.slot import canonical
from tests.unit.keyrings import CHEAP, USER, make

SPKI = (
    "3046301006072a8648ce3d020106052b8104002203320003c76f2283dda95cd49b0ed9e733d2904474e37216f1"
    "24e13d2c9ab4cf01021c49ad9cabb3d0b97499aef2f0ab313fa028"
)


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
def test_round_trip(curve: str) -> None:
    opened = make(curve=curve)
    again = Keyring.parse(opened.keyring.encode(), USER)
    assert again == opened.keyring
    assert [key.scalar for key in again.unlock(b"secret").keys] == [opened.keys[0].scalar]


def test_wrong_password() -> None:
    with pytest.raises(WrongPassword):
        make().keyring.unlock(b"Secret")


@pytest.mark.parametrize("password", [b"", b"a\0b", b"a\nb", b"x" * (MAX_PASSWORD + 1)])
def test_passwords_that_cannot_be_set(password: bytes) -> None:
    with pytest.raises(BadPassword):
        make(password=password)


@pytest.mark.parametrize("password", [b"\xff\xfe", "pässwörd".encode(), b" ", b"x" * MAX_PASSWORD])
def test_passwords_are_bytes(password: bytes) -> None:
    keyring = Keyring.parse(make(password=password).keyring.encode(), USER)
    assert keyring.unlock(password).keys
    with pytest.raises(WrongPassword):
        keyring.unlock(password + b" ")


def test_the_escrow_key_is_hkdf() -> None:
    """The value was made with a separate implementation of HKDF."""
    public = PublicKey.from_spki(bytes.fromhex(SPKI))
    slot = EscrowSlot(
        "abc", "the firm", 1_700_000_000, public, bytes(range(91)), bytes(12), bytes(48)
    )
    key = escrow_slot._escrow_key(bytes(range(48)), slot, USER)
    assert key.hex() == "eda269a9550c07c7e21225972cc70d1ddf6196801f86b593410b7ec49dac9716"


def test_rekey_makes_an_old_copy_worthless_for_later_keys() -> None:
    escrow = PrivateKey.generate("secp384r1")
    opened = make()
    opened.add_key("prime256v1", now=2)
    _, app = opened.add_code("app", "phone", CHEAP, now=1)
    _, code = opened.add_code("recovery", "", CHEAP, now=1)
    opened.add_escrow(escrow.public, "the firm", now=1)
    old_master = bytearray(opened._master)
    gone = opened.rekey(b"secret", CHEAP, now=3)
    assert [slot.kind for slot in gone] == ["app", "recovery"]
    opened.add_key("prime256v1", now=3)
    keyring = Keyring.parse(opened.keyring.encode(), USER)
    assert [slot.kind for slot in keyring.slots] == ["login", "escrow"]
    scalars = [key.scalar for key in opened.keys]
    assert [key.scalar for key in keyring.unlock(b"secret").keys] == scalars
    assert [key.scalar for key in keyring.open_escrow(escrow).keys] == scalars
    assert [key.created for key in keyring.keys] == [1_700_000_000, 2, 3]
    for secret in (app.encode(), code.encode()):
        with pytest.raises(WrongPassword):
            keyring.unlock(secret)
        with pytest.raises(WrongPassword):
            keyring.recover(secret)
    # Even the old master key does not open it.
    for at, sealed in enumerate(keyring.keys):
        with pytest.raises(Damaged):
            sealed.open(old_master, USER, at)


def test_a_dropped_pair_is_gone_and_the_others_open() -> None:
    opened = make()
    for now in (2, 3):
        opened.add_key("prime256v1", now=now)
    first, second, third = opened.keys
    with pytest.raises(UsageError, match="seals new mail"):
        opened.drop_key(third.key_id)
    opened.drop_key(first.key_id)
    with pytest.raises(UsageError, match="no key pair"):
        opened.drop_key(first.key_id)
    keyring = Keyring.parse(opened.keyring.encode(), USER)
    assert [key.created for key in keyring.keys] == [2, 3]
    assert [key.scalar for key in keyring.unlock(b"secret").keys] == [second.scalar, third.scalar]


def test_escrow_opens_with_its_key_only() -> None:
    escrow, other = PrivateKey.generate("secp384r1"), PrivateKey.generate("secp384r1")
    opened = make()
    opened.add_escrow(escrow.public, "the firm", now=1)
    keyring = Keyring.parse(opened.keyring.encode(), USER)
    assert keyring.open_escrow(escrow).keys[0].scalar == opened.keys[0].scalar
    with pytest.raises(WrongPassword):
        keyring.open_escrow(other)
    slot = keyring.of_kind("escrow")[0]
    assert isinstance(slot, EscrowSlot)
    with pytest.raises(NoKey):
        slot.open(other, USER)
    for moved in (
        dataclasses.replace(slot, label="another firm"),
        dataclasses.replace(slot, created=2),
        dataclasses.replace(slot, ephemeral=other.public.spki),
    ):
        with pytest.raises(Damaged):
            moved.open(escrow, USER)
    with pytest.raises(Damaged):
        slot.open(escrow, "mallory@example.org")


def test_a_login_costs_one_derivation_and_an_app_password_one() -> None:
    opened = make()
    opened.add_code("app", "phone", CHEAP, now=1)
    _, code = opened.add_code("app", "tablet", CHEAP, now=1)
    opened.add_code("recovery", "", CHEAP, now=1)
    runs = []

    def counted(password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        runs.append(password)
        return kdf.derive(password, salt, cost, size)

    for password, expected in ((b"secret", 1), (code.encode(), 1), (b"wrong", 1)):
        runs.clear()
        try:
            opened.keyring.unlock(password, derive=counted)
        except WrongPassword:
            assert password == b"wrong"
        assert len(runs) == expected


def test_the_check_value_is_not_the_key() -> None:
    """The stored check value must not open the wrap."""
    slot = make().keyring.slots[0]
    assert isinstance(slot, PasswordSlot)
    derived = kdf.derive(b"secret", slot.salt, slot.cost, 64)
    assert derived[32:] == slot.check
    assert derived[:32] not in (slot.check, slot.salt, slot.wrapped[:32])


def test_canonical_encoding_tells_fields_apart() -> None:
    assert canonical("x", a="1", b="2") != canonical("x", a="12", b="")
    assert canonical("x", a=1) != canonical("x", a="1")
    assert canonical("x", a=1) != canonical("y", a=1)


def test_wipe_overwrites_the_master_key() -> None:
    opened = make()
    master = opened._master
    assert any(master)
    opened.wipe()
    assert not any(master) and not opened.keys
