# SPDX-License-Identifier: MIT
"""rekey and drop-key: what an old copy of a keyring still opens, and what is removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import ChangePending, Damaged, UsageError, WrongPassword
from mailseal.keys import backup as backup_format
from mailseal.keys.keyring import Keyring
from mailseal.login import mailcrypt_fields
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.vault import Vault
from tests.unit.agent_process import AgentProcess, running
from tests.unit.vaults import open_vault

USER = "alice@example.org"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = open_vault(tmp_path)
    made.enroll(USER, b"pw")
    return made


def test_an_old_copy_and_a_revoked_secret_open_nothing_later(vault: Vault) -> None:
    life = Lifecycle(vault)
    slot, app = life.add_app_password(USER, b"pw", "phone")
    code = life.new_recovery_code(USER, b"pw")
    copy = vault.store.load(USER)
    life.revoke(USER, slot.id)
    public, gone = life.rekey(USER, b"pw")
    later = life.rotate(USER, b"pw")
    assert [one.kind for one in gone] == ["recovery"]
    assert public is not None and public.key_id != copy.current.key_id
    assert vault.public.lookup(USER) == later
    now = vault.store.load(USER)
    for opened in (copy.unlock(app.encode()), copy.unlock(b"pw"), copy.recover(code.encode())):
        # The attacker has the master key of the copy, and the newest file.
        with pytest.raises(Damaged):
            now._opened(opened._master, opened.slot)
        for at, sealed in enumerate(now.keys):
            with pytest.raises(Damaged):
                sealed.open(opened._master, USER, at)
    keys = vault.unlock(USER, b"pw").keys
    assert [key.key_id for key in keys] == [copy.current.key_id, public.key_id, later.key_id]


def test_without_rekey_an_old_copy_opens_the_newest_keyring(vault: Vault) -> None:
    """`revoke` without a password prints what it cannot do; this is the reason."""
    life = Lifecycle(vault)
    slot, app = life.add_app_password(USER, b"pw", "phone")
    opened = vault.store.load(USER).unlock(app.encode())
    life.revoke(USER, slot.id)
    life.rotate(USER, b"pw")
    assert len(vault.store.load(USER)._opened(opened._master, opened.slot).keys) == 2


def test_rekey_beside_a_change_of_the_password_is_refused(vault: Vault) -> None:
    life = Lifecycle(vault)
    change = life.passwd(USER, b"pw", b"new", keep_old=True)
    with pytest.raises(ChangePending):
        life.rekey(USER, b"pw")
    life.commit(USER, change)
    life.rekey(USER, b"new")


def test_rekey_with_a_full_login_makes_no_pair_but_a_master_key(vault: Vault) -> None:
    life = Lifecycle(vault)
    opened, before = vault.open(USER, b"pw"), vault.store.load(USER)
    while vault.room(opened.keyring):
        vault.add_key(opened)
    vault.save(opened.keyring, before=before)
    master = bytearray(opened._master)
    public, _ = life.rekey(USER, b"pw")
    assert public is None
    with pytest.raises(Damaged):
        vault.store.load(USER)._opened(master, opened.slot)
    mailcrypt_fields.login_fields("2.3", vault.unlock(USER, b"pw").keys)


def test_escrow_opens_after_rekey(vault: Vault) -> None:
    escrow = PrivateKey.generate("secp384r1")
    vault.escrow = escrow.public
    vault.unlock(USER, b"pw")
    Lifecycle(vault).rekey(USER, b"pw")
    (slot,) = vault.store.load(USER).of_kind("escrow")
    assert len(vault.store.load(USER).open_escrow(escrow).keys) == 2
    with pytest.raises(UsageError):
        Lifecycle(vault).rekey(USER, b"pw", revoked=slot.id)


def test_who_may_drop_a_pair(vault: Vault) -> None:
    life = Lifecycle(vault)
    old = vault.store.load(USER).current.key_id
    _, app = life.add_app_password(USER, b"pw", "phone")
    with pytest.raises(UsageError, match="seals new mail"):
        life.drop_key(USER, b"pw", old)
    life.rotate(USER, b"pw")
    for wrong in (b"wrong", app.encode()):
        with pytest.raises(WrongPassword):
            life.drop_key(USER, wrong, old)
    life.drop_key(USER, b"pw", old, check=True)
    assert vault.store.load(USER).holds(old)
    life.drop_key(USER, b"pw", old)
    assert not vault.store.load(USER).holds(old)
    assert len(vault.unlock(USER, app.encode()).keys) == 1


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with running(tmp_path) as process:
        assert process.run("enroll", USER, stdin=b"pw\n").returncode == 0
        yield process


def keyring_of(agent: AgentProcess) -> Keyring:
    file = agent.folder / "copy"
    assert agent.run("backup", str(file), USER).returncode == 0
    return backup_format.parse(file.read_bytes())[USER]


@pytest.mark.parametrize("how", ["rekey", "revoke", "passwd"])
def test_the_commands_that_rekey(agent: AgentProcess, how: str) -> None:
    assert agent.run("app-password", USER, "laptop", stdin=b"pw\n").returncode == 0
    made = agent.run("app-password", USER, "phone", stdin=b"pw\n")
    assert agent.run("recovery-code", USER, stdin=b"pw\n").returncode == 0
    slots = json.loads(agent.run("status", USER, "--json").stdout)["users"][0]["slots"]
    phone = next(slot["id"] for slot in slots if slot["label"] == "phone")
    before = keyring_of(agent)
    master = before.unlock(made.stdout.strip())._master
    password = b"new" if how == "passwd" else b"pw"
    done = {
        "rekey": lambda: agent.run("rekey", USER, stdin=b"pw\n"),
        "revoke": lambda: agent.run("revoke", USER, phone, "--rekey", stdin=b"pw\n"),
        "passwd": lambda: agent.run("passwd", USER, "--compromised", stdin=b"pw\nnew\n"),
    }[how]()
    assert done.returncode == 0, done.stderr
    assert b"removed: app slot (laptop)" in done.stdout and b"recovery-code" in done.stderr
    after = keyring_of(agent)
    assert after.current.key_id != before.current.key_id
    assert agent.ask("unlock", user=USER.encode(), password=password).status == "ok"
    with pytest.raises(Damaged):
        after._opened(master, before.slots[0])


def test_revoke_without_a_password_says_what_it_does_not_do(agent: AgentProcess) -> None:
    assert agent.run("app-password", USER, "phone", stdin=b"pw\n").returncode == 0
    (slot,) = keyring_of(agent).of_kind("app")
    done = agent.run("revoke", USER, slot.id)
    assert done.returncode == 0 and b"mailseal rekey" in done.stderr
