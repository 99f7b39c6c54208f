# SPDX-License-Identifier: MIT
"""A keyring opens only with the right secrets, even if it was changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import (
    BadPassword,
    Damaged,
    MailsealError,
    NewerFormat,
    NoKey,
    UsageError,
    WrongPassword,
)
from mailseal.keys import escrow_slot, keyring_file, slots
from mailseal.keys.escrow_slot import EscrowSlot
from mailseal.keys.keyring import Keyring, Opened
from mailseal.keys.password_slot import MAX_PASSWORD, PasswordSlot
from mailseal.keys.slot import canonical, tag_of

CHEAP = kdf.PROFILES["insecure-testing"]
USER = "alice@example.org"
SPKI = (
    "3046301006072a8648ce3d020106052b8104002203320003c76f2283dda95cd49b0ed9e733d2904474e37216f1"
    "24e13d2c9ab4cf01021c49ad9cabb3d0b97499aef2f0ab313fa028"
)


def make(user: str = USER, password: bytes = b"secret", curve: str = "prime256v1") -> Opened:
    opened = Opened.create(user, curve=curve, now=1_700_000_000)
    opened.set_login(password, CHEAP, now=1_700_000_000)
    return opened


def redigest(content: dict[str, Any]) -> bytes:
    """Change a keyring and correct its digest, as an attacker with write access can do."""
    content["digest"] = keyring_file.digest(content)
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


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


def test_every_flipped_bit_and_every_truncation_is_damage() -> None:
    data = make().keyring.encode()
    for at in range(len(data)):
        for mask in (0x01, 0x02, 0x10, 0x20, 0x80):
            changed = bytearray(data)
            changed[at] ^= mask
            with pytest.raises((Damaged, NewerFormat)):
                Keyring.parse(bytes(changed), USER)
        with pytest.raises(Damaged):
            Keyring.parse(data[:at], USER)
    with pytest.raises(Damaged):
        Keyring.parse(data + b" ", USER)


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from leaves(value, (*path, name))
    elif isinstance(content, list):
        for at, value in enumerate(content):
            yield from leaves(value, (*path, at))
    else:
        yield path


def test_no_value_can_be_changed_even_with_a_right_digest() -> None:
    """The fields that are not bound: times and counters, which open nothing."""
    free = {("created",), ("revision",), ("digest",)}
    keyring = make().keyring
    changed_values = 0
    for path in leaves(json.loads(keyring.encode())):
        content = json.loads(keyring.encode())
        place = content
        for step in path[:-1]:
            place = place[step]
        value = place[path[-1]]
        if isinstance(value, int):
            place[path[-1]] = value + 1
        else:
            place[path[-1]] = value[:-1] + ("1" if value[-1:] != "1" else "2")
        if path in free:
            continue
        changed_values += 1
        with pytest.raises(MailsealError):
            Keyring.parse(redigest(content), USER).unlock(b"secret")
    assert changed_values >= 20


def exchange(field: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def swap(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        ours[field] = theirs[field]

    return swap


def slot_field(*names: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def swap(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        for name in names:
            ours["slots"][0][name] = theirs["slots"][0][name]

    return swap


SWAPS = {
    "slots": exchange("slots"),
    "keys": exchange("keys"),
    "keys and their tag": lambda a, b: (exchange("keys")(a, b), exchange("keys_tag")(a, b)),
    "the wrap": slot_field("wrapped", "nonce"),
    "salt and check": slot_field("salt", "check"),
    "all but the id": slot_field("salt", "check", "wrapped", "nonce"),
}


@pytest.mark.parametrize("what", SWAPS)
def test_what_is_swapped_between_users_does_not_open(what: str) -> None:
    """Both users have the same password, so that only the binding prevents it."""
    ours = json.loads(make("alice@example.org").keyring.encode())
    theirs = json.loads(make("mallory@example.org").keyring.encode())
    SWAPS[what](ours, theirs)
    with pytest.raises((Damaged, WrongPassword)):
        Keyring.parse(redigest(ours), USER).unlock(b"secret")


def test_a_whole_keyring_of_another_user_is_refused() -> None:
    with pytest.raises(Damaged, match="another user"):
        Keyring.parse(make("mallory@example.org").keyring.encode(), USER)


def test_a_moved_slot_is_damage_and_not_a_wrong_password() -> None:
    """The check value is right, so the password is; the wrap is bound to the other user."""
    ours = json.loads(make("alice@example.org").keyring.encode())
    theirs = json.loads(make("mallory@example.org").keyring.encode())
    ours["slots"] = theirs["slots"]
    with pytest.raises(Damaged, match="slot"):
        Keyring.parse(redigest(ours), USER).unlock(b"secret")


def test_keys_cannot_be_dropped_added_or_reordered() -> None:
    opened = make()
    opened.add_key("prime256v1", now=1_700_000_001)
    keys = opened.keyring.keys
    for changed in (keys[:1], keys[1:], keys[::-1], (*keys, keys[0])):
        tampered = dataclasses.replace(opened.keyring, keys=changed)
        with pytest.raises(Damaged):
            Keyring.parse(tampered.encode(), USER).unlock(b"secret")


def test_a_sealed_key_opens_in_its_own_place_only() -> None:
    opened = make()
    sealed = opened.keyring.keys[0]
    assert sealed.open(opened._master, USER, 0).key_id == opened.keys[0].key_id
    for user, at in ((USER, 1), ("mallory@example.org", 0)):
        with pytest.raises(Damaged):
            sealed.open(opened._master, user, at)


def test_the_digest_is_checked_by_itself() -> None:
    content = json.loads(make().keyring.encode())
    content["digest"] = "0" * 64
    data = json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
    with pytest.raises(Damaged, match="digest"):
        Keyring.parse(data, USER)


def test_slots_within_a_keyring_cannot_be_exchanged() -> None:
    """An app password must not become a login password, which may manage slots."""
    opened = make()
    slot, code = opened.add_code("app", "phone", CHEAP, now=1_700_000_001)
    content = json.loads(opened.keyring.encode())
    content["slots"][1]["kind"] = "login"
    keyring = Keyring.parse(redigest(content), USER)
    plain = code.replace("-", "").encode()
    with pytest.raises((Damaged, WrongPassword)):
        keyring.unlock(plain)
    assert slot.kind == "app"


def test_a_newer_format_is_refused_with_a_sentence() -> None:
    content = json.loads(make().keyring.encode())
    content["version"] = 2
    content["something_new"] = True
    with pytest.raises(NewerFormat, match="format version 2") as caught:
        Keyring.parse(redigest(content), USER)
    assert caught.value.hint == "upgrade mailseal"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory_kib", 1 << 40),
        ("memory_kib", 7),
        ("passes", 0),
        ("passes", 1 << 20),
        ("lanes", 0),
        ("lanes", 1 << 20),
        ("memory_kib", True),
        ("memory_kib", 8.0),
        ("kdf", "argon2d"),
        ("kdf_version", 16),
        ("tag", ""),
        ("salt", ""),
        ("id", ""),
        ("label", "x" * 101),
        ("created", -1),
    ],
)
def test_parameters_out_of_range_are_damage(name: str, value: Any) -> None:
    """A forged file must not be able to use all memory of the machine."""
    content = json.loads(make().keyring.encode())
    content["slots"][0][name] = value
    with pytest.raises(Damaged):
        Keyring.parse(redigest(content), USER)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b"[" * 100000, b"\xff", b"{" * 10])
def test_junk(text: bytes) -> None:
    with pytest.raises(Damaged):
        Keyring.parse(text, USER)


def test_duplicate_and_unknown_fields() -> None:
    data = make().keyring.encode()
    twice = data.replace(b'"revision": 0,', b'"revision": 0,\n "revision": 0,')
    with pytest.raises(Damaged):
        Keyring.parse(twice, USER)
    content = json.loads(data)
    content["more"] = 1
    with pytest.raises(Damaged):
        Keyring.parse(redigest(content), USER)


def test_two_slots_with_one_id() -> None:
    opened = make()
    opened.add_code("app", "", CHEAP, now=1)
    content = json.loads(opened.keyring.encode())
    content["slots"][1]["id"] = content["slots"][0]["id"]
    with pytest.raises(Damaged):
        Keyring.parse(redigest(content), USER)


def test_the_escrow_key_is_hkdf() -> None:
    """The value was made with a separate implementation of HKDF."""
    public = PublicKey.from_spki(bytes.fromhex(SPKI))
    slot = EscrowSlot(
        "abc", "the firm", 1_700_000_000, public, bytes(range(91)), bytes(12), bytes(48)
    )
    key = escrow_slot._escrow_key(bytes(range(48)), slot, USER)
    assert key.hex() == "eda269a9550c07c7e21225972cc70d1ddf6196801f86b593410b7ec49dac9716"


def reopened(opened: Opened, slot: dict[str, Any]) -> Keyring:
    content = json.loads(opened.keyring.encode())
    content["slots"].append(slot)
    return Keyring.parse(redigest(content), USER)


def of_newer_kind(opened: Opened) -> dict[str, Any]:
    """A slot of a later version, with a right tag."""
    bare = {
        "id": "abc",
        "kind": "fido2",
        "label": "a stick",
        "created": 1,
        "tag": "00" * 32,
        "more": [1, {"credential": "x"}, None],
    }
    slot = reopened(opened, bare).slots[-1]
    return {**bare, "tag": tag_of(opened._master, USER, slot).hex()}


def test_a_slot_of_a_newer_kind_is_kept_and_passed_over() -> None:
    opened = make()
    stored = of_newer_kind(opened)
    keyring = reopened(opened, stored)
    again = keyring.unlock(b"secret")
    again.set_login(b"other", CHEAP, now=2)
    again.add_code("app", "phone", CHEAP, now=2)
    changed = Keyring.parse(again.keyring.encode(), USER)
    assert changed.unlock(b"other").keys
    assert [slot.as_json() for slot in changed.of_kind("fido2")] == [stored]
    assert not changed.has_second_way, "the rights of an unknown slot are not known"
    assert not changed.without("abc").of_kind("fido2")
    with pytest.raises(WrongPassword):
        keyring.unlock(b"x")


@pytest.mark.parametrize(
    ("name", "value"),
    [("label", "mine"), ("kind", "fido3"), ("more", []), ("tag", "11" * 32), ("added", 1)],
)
def test_a_slot_of_a_newer_kind_cannot_be_changed_or_made(name: str, value: Any) -> None:
    opened = make()
    keyring = reopened(opened, {**of_newer_kind(opened), name: value})
    with pytest.raises(Damaged, match="slot abc"):
        keyring.unlock(b"secret")


def test_a_slot_does_not_move_to_another_user_or_master_key() -> None:
    other = make()
    keyring = reopened(make(), of_newer_kind(other))
    with pytest.raises(Damaged, match="slot abc"):
        keyring.unlock(b"secret")


def test_which_slots_are_recovery_methods() -> None:
    opened = make()
    assert not opened.keyring.has_second_way
    opened.add_code("app", "phone", CHEAP, now=1)
    assert not opened.keyring.has_second_way
    slot, _ = opened.add_code("recovery", "", CHEAP, now=1)
    assert opened.keyring.has_second_way
    assert not opened.keyring.without(slot.id).has_second_way
    opened.add_escrow(PrivateKey.generate().public, "", now=1)
    assert opened.keyring.has_second_way


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


class SlotLife(RuleBasedStateMachine):
    """Random changes of a keyring: after each, exactly the expected secrets open it."""

    def __init__(self) -> None:
        super().__init__()
        self.login = b"first"
        self.opened = make(password=self.login)
        self.apps: dict[str, bytes] = {}
        self.codes: dict[str, bytes] = {}
        self.dead: set[bytes] = {b"never"}
        self.scalars = [self.opened.keys[0].scalar]

    @rule(password=st.binary(min_size=1, max_size=20).filter(lambda p: not set(p) & set(b"\0\r\n")))
    def change_password(self, password: bytes) -> None:
        self.opened.set_login(password, CHEAP, now=2)
        self.dead.add(self.login)
        self.dead.discard(password)
        self.login = password

    @rule(label=st.text("abc ", max_size=5))
    def add_app(self, label: str) -> None:
        if len(self.opened.keyring.slots) < 8:
            slot, code = self.opened.add_code("app", label, CHEAP, now=3)
            self.apps[slot.id] = code.encode()

    @rule()
    def add_recovery(self) -> None:
        if len(self.opened.keyring.slots) < 8:
            slot, code = self.opened.add_code("recovery", "", CHEAP, now=3)
            self.codes[slot.id] = code.encode()

    @rule(number=st.integers(0, 10))
    def revoke(self, number: int) -> None:
        others = [slot.id for slot in self.opened.keyring.slots if slot.kind != "login"]
        if not others:
            return
        slot_id = others[number % len(others)]
        self.opened.keyring = self.opened.keyring.without(slot_id)
        self.dead.add(self.apps.pop(slot_id, b"") or self.codes.pop(slot_id))

    @rule()
    def the_login_slot_stays(self) -> None:
        with pytest.raises(UsageError):
            self.opened.keyring.without(self.opened.keyring.of_kind("login")[0].id)

    @rule()
    def rotate(self) -> None:
        if len(self.scalars) < 4:
            self.opened.add_key("prime256v1", now=4)
            self.scalars.append(self.opened.keys[-1].scalar)

    @rule()
    def reopen(self) -> None:
        self.opened = Keyring.parse(self.opened.keyring.encode(), USER).unlock(self.login)

    @invariant()
    def exactly_the_expected_secrets_open(self) -> None:
        keyring = Keyring.parse(self.opened.keyring.encode(), USER)
        for secret in (self.login, *self.apps.values()):
            assert [key.scalar for key in keyring.unlock(secret).keys] == self.scalars
        for code in self.codes.values():
            assert [key.scalar for key in keyring.recover(code).keys] == self.scalars
            with pytest.raises(WrongPassword):
                keyring.unlock(code)
        for secret in self.dead:
            with pytest.raises(WrongPassword):
                keyring.unlock(secret)
            with pytest.raises(WrongPassword):
                keyring.recover(secret)


SlotLife.TestCase.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
TestSlotLife = SlotLife.TestCase


def test_a_kind_may_do_what_it_declares_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened.create("alice", curve="prime256v1", now=1)
    opened.set_login(b"pw", kdf.PROFILES["insecure-testing"], now=1)
    _, app = opened.add_code("app", "phone", kdf.PROFILES["insecure-testing"], now=1)
    with pytest.raises(WrongPassword, match="cannot be set"):
        opened.keyring.unlock(app.encode()).set_login(
            b"other", kdf.PROFILES["insecure-testing"], now=1
        )
    nothing = dataclasses.replace(slots.KINDS["app"], opens_mail=False)
    monkeypatch.setitem(slots.KINDS, "app", nothing)
    with pytest.raises(WrongPassword, match="does not open mail"):
        opened.keyring.unlock(app.encode())
    assert len(opened.keyring.unlock(b"pw").keys) == 1
