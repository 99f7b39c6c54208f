# SPDX-License-Identifier: MIT
"""Any sequence of changes of slots, and what each kind of slot may do."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import UsageError, WrongPassword
from mailseal.keys import slots
from mailseal.keys.keyring import Keyring, Opened
from tests.unit.keyrings import CHEAP, USER, make


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
