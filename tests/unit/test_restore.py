# SPDX-License-Identifier: MIT
"""restore at the same time as other changes of the keyring: in sequence, without lost key pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mailseal.crypto import kdf
from mailseal.errors import Conflict, MailsealError
from mailseal.keys.keyring import Keyring
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.vault import Vault
from tests.unit.vaults import open_vault

USER = "alice@example.org"
CHANGES: dict[str, Callable[[Lifecycle], object]] = {
    "passwd": lambda life: life.passwd(USER, b"now", b"other"),
    "rotate": lambda life: life.rotate(USER, b"now"),
    "unenroll": lambda life: life.unenroll(USER),
}


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return open_vault(tmp_path)


@pytest.fixture
def backup(vault: Vault) -> bytes:
    """A backup that opens with the password `then`; the present one is `now`."""
    vault.enroll(USER, b"then")
    data = Lifecycle(vault).backup(USER)
    Lifecycle(vault).passwd(USER, b"then", b"now")
    return data


def test_it_waits_for_whoever_holds_the_keyring(
    vault: Vault, backup: bytes, tmp_path: Path
) -> None:
    before = vault.store.raw(USER)
    life = Lifecycle(open_vault(tmp_path))
    other = threading.Thread(target=lambda: life.restore(USER, backup, force=True))
    with vault.store.locked(USER):
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert vault.store.raw(USER) == before
    other.join(120)
    assert not other.is_alive()
    vault.open(USER, b"then")


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_slips_in_between_its_look_and_its_write(
    vault: Vault, backup: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    failed: list[MailsealError] = []
    begun = threading.Event()

    def change() -> None:
        life = Lifecycle(open_vault(tmp_path))
        begun.set()
        try:
            CHANGES[name](life)
        except MailsealError as exc:
            failed.append(exc)

    other = threading.Thread(target=change)
    real = vault.store.overwrite

    def overwrite(keyring: Keyring) -> None:
        other.start()
        begun.wait(120)
        other.join(0.5)
        real(keyring)

    monkeypatch.setattr(vault.store, "overwrite", overwrite)
    assert Lifecycle(vault).restore(USER, backup, force=True) == "another one"
    other.join(120)
    published = vault.public.lookup(USER)
    if name == "unenroll":  # it was the last one
        assert (failed, published, vault.store.users()) == ([], None, [])
        return
    # The published key can be opened, and a command whose change was lost has failed.
    assert published is not None
    assert vault.store.load(USER).holds(published.key_id)
    assert [type(exc) for exc in failed] == [Conflict]
    vault.open(USER, b"then")


def test_a_change_that_began_before_does_not_undo_it(
    vault: Vault, backup: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vault.derive

    def derive(password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        monkeypatch.setattr(vault, "derive", real)
        Lifecycle(vault).restore(USER, backup, force=True)
        return real(password, salt, cost, size)

    monkeypatch.setattr(vault, "derive", derive)
    with pytest.raises(Conflict):
        Lifecycle(vault).passwd(USER, b"now", b"other")
    vault.open(USER, b"then")
