# SPDX-License-Identifier: MIT
"""Keyring and public key together: two writers, replaced, lost and damaged keys."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

import pytest

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import (
    AlreadyEnrolled,
    BadPassword,
    Conflict,
    Damaged,
    MailsealError,
    TemporaryError,
    WrongPassword,
)
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.vault import Vault
from tests.unit.vaults import CHEAP, USER, folder_of, opens


def test_two_passwd_at_once_one_wins(vault: Vault) -> None:
    vault.enroll(USER, b"old")
    barrier = threading.Barrier(2)
    real = vault.derive

    def together(password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        if password in (b"new 0", b"new 1"):
            barrier.wait(120)  # both have opened the keyring with the old password
        return real(password, salt, cost, size)

    vault.derive = together
    results: list[object] = [None, None]

    def change(number: int) -> None:
        try:
            Lifecycle(vault).passwd(USER, b"old", b"new %d" % number)
        except MailsealError as exc:
            results[number] = exc

    threads = [threading.Thread(target=change, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    vault.derive = real
    lost = [n for n in range(2) if isinstance(results[n], Conflict)]
    assert len(lost) == 1
    assert "another process" in str(results[lost[0]])
    assert not opens(vault, b"old")
    assert not opens(vault, b"new %d" % lost[0])
    assert opens(vault, b"new %d" % (1 - lost[0]))


def test_a_foreign_public_key_refuses_the_login_with_an_error(
    vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    vault.enroll(USER, b"pw")
    foreign = PrivateKey.generate().public
    vault.public.publish(USER, foreign)
    with caplog.at_level(logging.CRITICAL), pytest.raises(Damaged, match="replaced"):
        vault.unlock(USER, b"pw")
    assert foreign.key_id.hex() in caplog.text and USER in caplog.text
    assert vault.public.lookup(USER) == foreign, "not changed until an administrator acts"
    assert vault.repair(USER) == f"was {foreign.key_id.hex()}"
    assert opens(vault, b"pw")
    assert vault.repair(USER) == ""


@pytest.mark.parametrize("harm", ["cut", "missing", "unpublished"])
def test_a_lost_or_damaged_public_key_is_published_again_at_login(vault: Vault, harm: str) -> None:
    key = vault.enroll(USER, b"pw").current
    path = folder_of(vault.public) / f"{USER}.json"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:50])
    elif harm == "missing":
        path.unlink()
    else:
        vault.public.withdraw(USER)
    assert not opens(vault, b"wrong")
    if harm != "unpublished":
        with pytest.raises(TemporaryError):
            vault.public.lookup(USER)
    assert opens(vault, b"pw")
    assert vault.public.lookup(USER) == key


def test_an_older_public_key_is_brought_up_to_date(vault: Vault) -> None:
    first = vault.enroll(USER, b"pw")
    opened = vault.open(USER, b"pw")
    opened.add_key("prime256v1", now=1)
    vault.store.save(opened.keyring, before=first)  # a crash here, before publishing
    assert vault.public.lookup(USER) == first.current
    assert opens(vault, b"pw")
    assert vault.public.lookup(USER) == opened.keyring.current


def test_a_missing_state_folder_is_no_reason_to_publish(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    folder = folder_of(vault.public)
    os.rename(folder, f"{folder}.away")
    with pytest.raises(TemporaryError):
        vault.unlock(USER, b"pw")


def test_a_lost_keyring_is_no_wrong_password(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    vault.store.remove(USER)
    with pytest.raises(TemporaryError, match="missing"):
        vault.unlock(USER, b"pw")
    with pytest.raises(TemporaryError, match="missing"):
        vault.enroll(USER, b"pw")


def test_a_damaged_keyring_is_no_wrong_password(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    path = folder_of(vault.store) / f"{USER}.json"
    path.write_bytes(path.read_bytes()[:-40])
    for password in (b"pw", b"wrong"):
        with pytest.raises(Damaged):
            vault.unlock(USER, password)


def test_an_unknown_user_costs_the_derivation_of_a_wrong_password(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    costs: list[kdf.Profile] = []

    def counted(password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        costs.append(cost)
        return kdf.derive(password, salt, cost, size)

    vault.derive = counted
    for user in (USER, "nobody@example.org"):
        with pytest.raises(WrongPassword):
            vault.unlock(user, b"wrong")
    numbers = [(cost.memory_kib, cost.passes, cost.lanes) for cost in costs]
    assert len(numbers) == 2 and numbers[0] == numbers[1]


def test_enroll_twice(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    with pytest.raises(AlreadyEnrolled):
        vault.enroll("ALICE@example.org", b"pw")
    assert opens(vault, b"pw")


@pytest.mark.parametrize("password", [b"", b"a\0b", b"x" * 10_000_000])
def test_passwords_that_cannot_be(vault: Vault, password: bytes) -> None:
    with pytest.raises(BadPassword):
        vault.enroll(USER, password)
    assert vault.public.lookup(USER) is None
    vault.enroll(USER, b"pw")
    with pytest.raises(BadPassword):
        Lifecycle(vault).passwd(USER, b"pw", password)
    assert opens(vault, b"pw")


def test_passwd_needs_the_old_login_password(vault: Vault) -> None:
    vault.enroll(USER, b"pw")
    opened = vault.open(USER, b"pw")
    before = opened.keyring
    _, app = opened.add_code("app", "phone", CHEAP, now=1)
    _, recovery = opened.add_code("recovery", "", CHEAP, now=1)
    vault.store.save(opened.keyring, before=before)
    for wrong in (b"guess", app.encode(), recovery.encode()):
        with pytest.raises(WrongPassword):
            Lifecycle(vault).passwd(USER, wrong, b"new")
    assert opens(vault, b"pw") and opens(vault, app.encode())
    assert not opens(vault, recovery.encode())


def test_find_by_key_id(vault: Vault) -> None:
    key_id = vault.enroll(USER, b"pw").current.key_id
    vault.enroll("bob@example.org", b"pw")
    (folder_of(vault.store) / "broken.json").write_bytes(b"{")
    assert vault.find(key_id) == USER
    assert vault.find(bytes(32)) is None


def during(monkeypatch: pytest.MonkeyPatch, vault: Vault, what: Callable[[], object]) -> None:
    """Do `what` while the next unlock runs Argon2id, so between read and check."""
    real = vault.derive

    def derive(password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        monkeypatch.setattr(vault, "derive", real)
        what()
        return real(password, salt, cost, size)

    monkeypatch.setattr(vault, "derive", derive)


def test_an_unlock_under_way_does_not_bring_a_removed_key_back(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.enroll(USER, b"password")
    during(monkeypatch, vault, lambda: Lifecycle(vault).unenroll(USER))
    with pytest.raises(TemporaryError, match="removed just now"):
        vault.unlock(USER, b"password")
    assert vault.public.lookup(USER) is None


def test_an_unlock_under_way_does_not_take_a_new_key_for_a_foreign_one(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.enroll(USER, b"password")
    during(monkeypatch, vault, lambda: Lifecycle(vault).rotate(USER, b"password"))
    vault.unlock(USER, b"password")
    published = vault.public.lookup(USER)
    assert published is not None
    assert published.key_id == vault.store.load(USER).current.key_id


def test_a_login_with_the_old_password_leaves_the_new_one_alone(vault: Vault) -> None:
    vault.enroll(USER, b"old")
    change = Lifecycle(vault).passwd(USER, b"old", b"new", keep_old=True)
    vault.unlock(USER, b"old", vouched=True)
    Lifecycle(vault).commit(USER, change)
    vault.unlock(USER, b"new", vouched=True)
    with pytest.raises(WrongPassword):
        vault.unlock(USER, b"old")
