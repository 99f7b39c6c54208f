# SPDX-License-Identifier: MIT
"""A keyring that was changed does not open, even with a right digest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mailseal.errors import Damaged, MailsealError, NewerFormat, WrongPassword
from mailseal.keys.keyring import Keyring
from tests.unit.keyrings import CHEAP, USER, make, redigest


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
