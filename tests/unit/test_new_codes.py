# SPDX-License-Identifier: MIT
"""A recovery code that nobody has typed back: nothing is left of it after half an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal.errors import UsageError
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.new_codes import NewCodes
from tests.unit.vaults import open_vault

USER = "alice@example.org"


def test_a_code_that_was_not_typed_back_in_time(tmp_path: Path) -> None:
    now = 1000.0
    vault = open_vault(tmp_path)
    vault.enroll(USER, b"pw")
    older = Lifecycle(vault).new_recovery_code(USER, b"pw")
    stored = vault.store.raw(USER)
    new_codes = NewCodes(vault, clock=lambda: now)
    code, asked = new_codes.begin(USER, b"pw")
    typed = [code.split("-")[number - 1] for number in asked]
    assert vault.store.raw(USER) == stored, "nothing is stored"
    now += 1801
    assert not new_codes.asked(USER)
    with pytest.raises(UsageError, match="too long ago"):
        new_codes.finish(USER, b"pw", typed)
    assert vault.store.raw(USER) == stored
    Lifecycle(vault).prove(USER, older.encode())
    # In time, it replaces the older one.
    code, asked = new_codes.begin(USER, b"pw")
    now += 1799
    new_codes.finish(USER, b"pw", [code.split("-")[number - 1] for number in asked])
    (slot,) = vault.load(USER).of_kind("recovery")
    assert slot.id == code[:3]
    Lifecycle(vault).prove(USER, code.encode())
