# SPDX-License-Identifier: MIT
"""The public key store never returns "not enrolled" if this is not certain."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import Damaged, MailsealError, NewerFormat, TemporaryError
from mailseal.keys.lease import FOLDER_MARK
from mailseal.keys.public import PublicStore

USER = "alice@example.org"


@pytest.fixture
def store(tmp_path: Path) -> PublicStore:
    store = PublicStore(str(tmp_path / "public"))
    store.prepare()
    return store


@pytest.fixture
def key() -> PublicKey:
    return PrivateKey.generate().public


def key_file(store: PublicStore) -> Path:
    return Path(store.folder) / f"{USER}.json"


def test_publish_lookup_withdraw(store: PublicStore, key: PublicKey) -> None:
    assert store.lookup(USER) is None
    store.publish(USER, key)
    assert store.lookup(USER) == key
    assert store.lookup("ALICE@example.org") == key
    assert store.users() == [USER]
    store.withdraw(USER)
    assert store.lookup(USER) is None
    assert store.users() == []


def test_modes(store: PublicStore, key: PublicKey) -> None:
    """The delivery daemon opens files by name; nobody can list the users."""
    store.publish(USER, key)
    assert os.stat(store.folder).st_mode & 0o777 == 0o711
    assert os.stat(key_file(store)).st_mode & 0o777 == 0o644


def test_a_lost_key_file_is_not_a_user_without_key(store: PublicStore, key: PublicKey) -> None:
    store.publish(USER, key)
    key_file(store).unlink()
    with pytest.raises(TemporaryError, match="missing"):
        store.lookup(USER)


@pytest.mark.parametrize("lost", [FOLDER_MARK, "enrolled", "."])
def test_an_empty_mount_point_is_not_a_folder_without_users(store: PublicStore, lost: str) -> None:
    folder = Path(store.folder)
    if lost == ".":
        folder.rename(folder.with_name("away"))
    elif lost == "enrolled":
        (folder / "enrolled").rmdir()
    else:
        (folder / lost).unlink()
    with pytest.raises(TemporaryError):
        store.lookup(USER)


def test_every_flipped_bit_and_truncation_raises(store: PublicStore, key: PublicKey) -> None:
    store.publish(USER, key)
    path = key_file(store)
    data = path.read_bytes()
    for at in range(len(data)):
        for mask in (0x01, 0x02, 0x10, 0x20, 0x80):
            changed = bytearray(data)
            changed[at] ^= mask
            path.write_bytes(changed)
            store._cache.clear()
            with pytest.raises((Damaged, NewerFormat)):
                store.lookup(USER)
        path.write_bytes(data[:at])
        store._cache.clear()
        with pytest.raises(Damaged):
            store.lookup(USER)


def test_a_key_of_another_user_is_refused(store: PublicStore, key: PublicKey) -> None:
    store.publish("bob@example.org", key)
    store.publish(USER, PrivateKey.generate().public)
    key_file(store).write_bytes((Path(store.folder) / "bob@example.org.json").read_bytes())
    with pytest.raises(Damaged, match="another user"):
        store.lookup(USER)


def test_a_newer_format_is_refused(store: PublicStore, key: PublicKey) -> None:
    store.publish(USER, key)
    content = json.loads(key_file(store).read_bytes())
    content["version"] = 2
    key_file(store).write_text(json.dumps(content))
    with pytest.raises(NewerFormat):
        store.lookup(USER)


@pytest.mark.parametrize("what", ["folder", "fifo", "link"])
def test_other_than_a_regular_file_raises_and_does_not_hang(
    store: PublicStore, key: PublicKey, what: str, tmp_path: Path
) -> None:
    store.publish(USER, key)
    path = key_file(store)
    content = path.read_bytes()
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        (tmp_path / "planted").write_bytes(content)
        path.symlink_to(tmp_path / "planted")
    with pytest.raises(MailsealError):
        store.lookup(USER)


def test_a_replaced_file_is_seen_at_once(store: PublicStore, key: PublicKey) -> None:
    store.publish(USER, key)
    assert store.lookup(USER) == key
    other = PrivateKey.generate().public
    PublicStore(store.folder).publish(USER, other)
    assert store.lookup(USER) == other


def test_unchanged_files_are_read_once(
    store: PublicStore, key: PublicKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(USER, key)
    store.lookup(USER)
    monkeypatch.setattr(store, "_bytes", None)
    assert store.lookup(USER) == key


def test_a_crash_between_mark_and_key_defers(
    store: PublicStore, key: PublicKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark is written first: a key file without a mark could later be lost unnoticed."""
    real = os.rename

    def cut(source: str, target: str) -> None:
        if target.endswith(".json"):
            raise KeyboardInterrupt("power cut")
        real(source, target)

    monkeypatch.setattr(os, "rename", cut)
    with pytest.raises(KeyboardInterrupt, match="power cut"):
        store.publish(USER, key)
    with pytest.raises(TemporaryError, match="missing"):
        store.lookup(USER)


def test_names_that_need_escaping(store: PublicStore, key: PublicKey) -> None:
    for user in ("../../etc/passwd", "enrolled", FOLDER_MARK, "a/b", ".", "ü" * 120):
        store.publish(user, key)
        assert store.lookup(user) == key
    assert sorted(os.listdir(Path(store.folder).parent)) == ["public"]


def test_no_sync_comes_between_the_mark_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that opens three connections at once enrolls with the first one.

    The others must not find the user enrolled and the key missing, as long as a disk takes.
    """
    store = PublicStore(str(tmp_path))
    store.prepare()
    synced = os.fsync
    seen: list[object] = []

    def look(fd: int) -> None:
        try:
            seen.append(store.lookup(USER) is not None)
        except TemporaryError as exc:
            seen.append(str(exc))
        synced(fd)

    monkeypatch.setattr(os, "fsync", look)
    store.publish(USER, PrivateKey.generate().public)
    assert set(seen) == {False, True}
