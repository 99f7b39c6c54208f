# SPDX-License-Identifier: MIT
"""The largest keyrings: all verbs can pass them, a full one opens, and a login is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import CURVES, PrivateKey
from mailseal.errors import TemporaryError, UsageError
from mailseal.keys import backup as backup_format
from mailseal.keys.keyring import Keyring, Opened
from mailseal.keys.keyring_file import MAX_KEYS, MAX_SLOTS
from mailseal.keys.slot import MAX_LABEL
from mailseal.login import mailcrypt_fields, protocol
from mailseal.login.lifecycle import Lifecycle
from tests.unit.agent_process import AgentProcess, running
from tests.unit.vaults import open_vault

USER = "alice@example.org"
COST = kdf.PROFILES["insecure-testing"]
NOW = 1_700_000_000


def largest(user: str = USER) -> Keyring:
    """64 key pairs on P-521, 64 slots, and the longest labels in JSON."""
    opened = Opened.create(user, curve="secp521r1", now=NOW)
    opened.set_login(b"pw", COST, now=NOW)
    while len(opened.keys) < MAX_KEYS:
        opened.add_key("secp521r1", now=NOW)
    while len(opened.keyring.slots) < MAX_SLOTS:
        opened.add_code("app", "\U0001f600" * MAX_LABEL, COST, now=NOW)
    return opened.keyring


def test_the_largest_keyring_is_backed_up_restored_and_shown(tmp_path: Path) -> None:
    users = [f"user{number:02}@example.org" for number in range(12)]
    keyrings = {user: largest(user).encode() for user in users}
    assert max(map(len, keyrings.values())) < protocol.MAX_VALUE
    file, again = tmp_path / "backup", tmp_path / "again"
    file.write_bytes(backup_format.encode(keyrings, created=NOW))
    with running(tmp_path) as agent:
        done = agent.run("restore", str(file))
        assert done.returncode == 0, done.stderr
        shown = agent.run("status", "--json")
        assert shown.returncode == 0, shown.stderr
        assert [entry["user"] for entry in json.loads(shown.stdout)["users"]] == users
        assert agent.run("backup", str(again)).returncode == 0
    assert backup_format.parse(again.read_bytes()) == backup_format.parse(file.read_bytes())


def test_restore_goes_on_after_a_user_that_fails(agent: AgentProcess, tmp_path: Path) -> None:
    file = str(tmp_path / "backup")
    for user in ("alice", "bob", "carol"):
        assert agent.run("enroll", user, stdin=b"pw\n").returncode == 0
    assert agent.run("backup", file).returncode == 0
    assert (
        agent.run("rotate", "bob", stdin=b"pw\n").returncode == 0
    )  # the backup does not have the new key pair
    keys = tmp_path / "state" / "keys"
    (keys / "carol.json").unlink()
    done = agent.run("restore", file)
    assert done.returncode == 65
    assert b"bob: NOT RESTORED" in done.stdout
    assert b"carol: restored" in done.stdout and (keys / "carol.json").exists()
    assert b"1 of 3 keyrings were not restored" in done.stderr


def test_a_full_keyring_opens_when_an_escrow_key_is_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vault = open_vault(tmp_path)
    vault.enroll(USER, b"pw")
    life = Lifecycle(vault)
    opened = vault.open(USER, b"pw")
    before = opened.keyring
    while len(opened.keyring.slots) < MAX_SLOTS:
        slot, _ = opened.add_code("app", "", COST, now=NOW)
    vault.store.save(opened.keyring, before=before)
    vault.escrow = PrivateKey.generate().public
    assert vault.unlock(USER, b"pw").keys
    assert "THE ESCROW SLOT DOES NOT FIT" in caplog.text
    life.passwd(USER, b"pw", b"new")
    life.revoke(USER, slot.id)
    vault.unlock(USER, b"new")
    assert vault.store.load(USER).of_kind("escrow")


def test_app_passwords_leave_room_for_a_change_of_the_password(tmp_path: Path) -> None:
    vault = open_vault(tmp_path)
    vault.enroll(USER, b"pw")
    life = Lifecycle(vault)
    life.new_recovery_code(USER, b"pw")
    with pytest.raises(UsageError, match="no more app passwords"):
        for _ in range(MAX_SLOTS):
            life.add_app_password(USER, b"pw", "phone")
    life.commit(USER, life.passwd(USER, b"pw", b"new", keep_old=True))
    life.new_recovery_code(USER, b"new")


@pytest.mark.parametrize("version", ["2.3", "2.4"])
@pytest.mark.parametrize("curve", CURVES)
def test_the_login_is_measured_as_it_is_sent(version: str, curve: str) -> None:
    keys = [PrivateKey.generate(curve) for _ in range(4)]
    sent = mailcrypt_fields.login_fields(version, keys)
    prefix = "userdb_" if version == "2.3" else ""
    line = "".join(f"{prefix}{name}={value}\t" for name, value in sent)
    assert not set(line) & set("\n\1")
    measured = mailcrypt_fields.line_size(version, [key.public for key in keys])
    assert 0 <= measured - len(line) <= 4 * 4, "private numbers are sometimes a few bytes shorter"


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_no_rotation_beyond_what_a_login_carries(tmp_path: Path, version: str) -> None:
    vault = open_vault(tmp_path)
    vault.version = version
    vault.enroll(USER, b"pw")
    room = vault.room(vault.store.load(USER))
    assert room > 15
    opened = vault.open(USER, b"pw")
    for left in range(room, 0, -1):
        assert vault.room(opened.keyring) == left
        vault.add_key(opened)
    before = vault.store.load(USER)
    vault.store.save(opened.keyring, before=before)
    with pytest.raises(UsageError, match="do not fit") as caught:
        Lifecycle(vault).rotate(USER, b"pw")
    assert caught.value.hint is not None and "drop-key" in caught.value.hint
    assert len(vault.store.load(USER).keys) == room + 1


def test_a_login_that_dovecot_would_not_take_is_a_temporary_failure() -> None:
    keys = [PrivateKey.generate() for _ in range(40)]
    with pytest.raises(TemporaryError, match="40 key pairs"):
        mailcrypt_fields.login_fields("2.3", keys)
