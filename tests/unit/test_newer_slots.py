# SPDX-License-Identifier: MIT
"""A slot of a kind that only a newer version knows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mailseal.errors import Damaged, WrongPassword
from mailseal.keys.keyring import Keyring, Opened
from mailseal.keys.slot import tag_of
from tests.unit.keyrings import CHEAP, USER, make, redigest


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
