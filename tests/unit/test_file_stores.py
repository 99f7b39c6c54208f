# SPDX-License-Identifier: MIT
"""The file stores pass the tests of the contract, and remove files left by a power failure."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PublicKey
from mailseal.keys.keystore import Keystore
from mailseal.keys.names import file_name
from mailseal.keys.public import PublicStore
from mailseal.keys.stores import KeyringStore, KeyStores, PublicKeys
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.vault import Vault
from tests.lab.process import wait_until
from tests.unit.agent_process import running
from tests.unit.store_contract import (
    USER,
    Contract,
    KeyringStoreContract,
    PublicKeysContract,
    check_order_of_writes,
    make,
)


class _PowerCut(BaseException):
    pass


class Files(Contract):
    """Records which files and names were synced to the disk."""

    def outlives_a_power_cut(self, write: Callable[[], object]) -> bool:
        loose: set[str] = set()
        with pytest.MonkeyPatch.context() as patch:

            def watch(name: str, note: Callable[..., None]) -> None:
                real = getattr(os, name)

                def call(*args: Any, **kwargs: Any) -> Any:
                    result = real(*args, **kwargs)
                    note(*args)
                    return result

                patch.setattr(os, name, call)

            def synced(fd: int) -> None:
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    loose.discard(os.readlink(f"/proc/self/fd/{fd}"))
                else:
                    loose.discard(f"data {os.fstat(fd).st_ino}")

            def named(_source: str, target: str) -> None:
                # A file must be on the disk before it gets its name.
                assert f"data {os.stat(target).st_ino}" not in loose
                loose.add(os.path.dirname(target))

            watch("write", lambda fd, _: loose.add(f"data {os.fstat(fd).st_ino}"))
            watch("fsync", synced)
            watch("rename", named)
            watch("link", named)
            watch("unlink", lambda path: loose.add(os.path.dirname(path)))
            write()
        return not loose

    def cut_short(self, user: str, write: Callable[[], object]) -> None:
        real = os.rename

        def cut(source: str, target: str) -> None:
            if target.endswith(f"{file_name(user)}.json"):
                raise _PowerCut
            real(source, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "rename", cut)
            with pytest.raises(_PowerCut):
                write()


class TestKeystore(Files, KeyringStoreContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], KeyringStore]:
        self.folder = tmp_path / "keys"

        def opened() -> Keystore:
            store = Keystore(str(self.folder))
            store.prepare()
            return store

        return opened

    def damage(self, store: KeyringStore, user: str) -> None:
        path = self.folder / f"{file_name(user)}.json"
        path.write_bytes(path.read_bytes().replace(b"mailseal", b"mailsea1"))


class TestPublicStore(Files, PublicKeysContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], PublicKeys]:
        self.folder = tmp_path / "public"

        def opened() -> PublicStore:
            store = PublicStore(str(self.folder))
            store.prepare()
            return store

        return opened

    def lose_key(self, store: PublicKeys, user: str) -> None:
        (self.folder / f"{file_name(user)}.json").unlink()

    def damage(self, store: PublicKeys, user: str) -> None:
        path = self.folder / f"{file_name(user)}.json"
        path.write_bytes(path.read_bytes().replace(b"mailseal", b"mailsea1"))


@pytest.fixture
def stores(tmp_path: Path) -> KeyStores:
    keyrings, public = Keystore(str(tmp_path / "keys")), PublicStore(str(tmp_path / "public"))
    keyrings.prepare()
    public.prepare()
    return KeyStores(keyrings, public)


def test_order_of_writes(stores: KeyStores, tmp_path: Path) -> None:
    check_order_of_writes(stores)
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["locks"]


class _NoPublish(PublicStore):
    def publish(self, user: str, key: PublicKey) -> None:
        raise _PowerCut


def test_a_new_key_is_published_after_its_keyring(stores: KeyStores, tmp_path: Path) -> None:
    broken = KeyStores(stores.keyrings, _NoPublish(str(tmp_path / "public")))
    first = make()
    with pytest.raises(_PowerCut), broken.transaction(USER) as change:
        change.create(first)
    assert stores.keyrings.load(USER) == first and stores.public.lookup(USER) is None
    with stores.transaction(USER) as change:
        change.publish(first.current)
    opened = first.unlock(b"pw")
    opened.add_key("prime256v1", now=2)
    with pytest.raises(_PowerCut), broken.transaction(USER) as change:
        change.save(opened.keyring, before=first)
    published = stores.public.lookup(USER)
    assert published is not None and stores.keyrings.load(USER).holds(published.key_id)


def left_over(folder: Path) -> list[str]:
    folders = [folder / part for part in ("keys", "public", "public/enrolled")]
    names = [path.name for place in folders for path in place.iterdir()]
    return sorted(name for name in names if "tmp" in name)


def leave(folder: Path, user: str, data: bytes = b"{}") -> None:
    """Files left by power failures, also by versions with a different name for each file."""
    name = file_name(user)
    (folder / "keys" / f"{name}.json#tmp").write_bytes(data)
    (folder / "public" / f"{name}.json#tmp").write_bytes(data)
    (folder / "public" / "enrolled" / f"{name}#tmp").write_bytes(b"")


def test_the_agent_sweeps_at_its_start(tmp_path: Path) -> None:
    with running(tmp_path) as agent:
        for user in ("alice", "bob.tmp", "x" * 250):
            assert agent.ask("enroll", user=user.encode(), password=b"pw").status == "ok"
        agent.stop()
        state = tmp_path / "state"
        for user in ("alice", "bob.tmp", "gone"):
            leave(state, user)
        old = file_name("x" * 250) + ".json.tmp.4711.00c0ffee"
        (state / "keys" / old).write_bytes(b"{}")
        outside = tmp_path / "precious"
        outside.write_bytes(b"stays")
        (state / "keys" / "link.json#tmp").symlink_to(outside)
        agent.start()
        kept = ["bob.tmp", "bob.tmp.json", "bob.tmp.json"]
        wait_until(lambda: left_over(state) == kept, "the agent has tidied up")
        assert outside.read_bytes() == b"stays"
        log = agent.log_text()
        assert "alice.json#tmp" in log and "gone.json#tmp" in log and old in log
        for user in ("alice", "bob.tmp", "x" * 250):
            assert agent.ask("unlock", user=user.encode(), password=b"pw").status == "ok"


CHANGES: dict[str, Callable[[Lifecycle], object]] = {
    "passwd": lambda life: life.passwd(USER, b"pw", b"new"),
    "rotate": lambda life: life.rotate(USER, b"pw"),
    "unenroll": lambda life: life.unenroll(USER),
    "recovery code": lambda life: life.new_recovery_code(USER, b"pw"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_sweeps_what_is_left_of_the_user(
    stores: KeyStores, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    vault = Vault(
        stores.keyrings,
        stores.public,
        curve="prime256v1",
        cost=kdf.PROFILES["insecure-testing"],
    )
    vault.enroll(USER, b"pw")
    leave(tmp_path, USER, vault.store.raw(USER))
    leave(tmp_path, "bob")
    CHANGES[name](Lifecycle(vault))
    assert left_over(tmp_path) == ["bob#tmp", "bob.json#tmp", "bob.json#tmp"]
    assert f"{USER}.json#tmp" in caplog.text


def test_a_first_keyring_has_no_name_before_it_is_whole(
    stores: KeyStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*args: object, **kwargs: object) -> None:
        raise _PowerCut

    monkeypatch.setattr(os, "link", cut)
    with pytest.raises(_PowerCut):
        stores.keyrings.create(make())
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["locks"]


@pytest.mark.parametrize("without", ["O_TMPFILE", "/proc"])
def test_create_where_files_without_a_name_cannot_be(
    stores: KeyStores, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    real_open, real_isdir = os.open, os.path.isdir

    def no_tmpfile(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real_open(path, flags, *args, **kwargs)

    if without == "/proc":
        monkeypatch.setattr(os.path, "isdir", lambda path: "/proc" not in path and real_isdir(path))
    else:
        monkeypatch.setattr(os, "open", no_tmpfile)
    keyring = make()
    stores.keyrings.create(keyring)
    assert stores.keyrings.load(USER) == keyring
