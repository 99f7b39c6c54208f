# SPDX-License-Identifier: MIT
"""The first copy on a new host: killed half-way, read meanwhile, and after a power failure."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal import durable
from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import Damaged, TemporaryError
from mailseal.keys import opening
from mailseal.keys.copying import Copying
from mailseal.keys.public import LEAVING, encode
from mailseal.keys.sql import replica as replica_module
from mailseal.keys.sql.public import ENROLLED
from mailseal.login import local_keys
from tests.lab.clusters import Keys
from tests.unit.replica.host import LOG, Host, key

PAGE, USERS = 20, 110
KILLS = 12

STEP = """\
import logging, os, random, signal, sys
sys.path.insert(0, sys.argv[1])
from mailseal import database_address, durable
from mailseal.keys.public import PublicStore
from mailseal.keys.sql import replica
from mailseal.keys.sql.database import Database
url, folder, page, last = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
replica._PAGE = page
replica._PAGES_AT_ONCE = 2
replica._FEW = 0
made = replica.Replica(
    Database(database_address.parse(url)), PublicStore(folder), name="mx", seconds=30,
    log=logging.getLogger("test"),
)
calls = 0
def count():
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
def before(event, values):
    if event in ("open", "os.rename", "os.remove") and str(values[0]).startswith(folder):
        count()
def write_half(fd, data):
    os.write(fd, data[: len(data) // 2])
    count()
    os.write(fd, data[len(data) // 2 :])
sys.addaudithook(before)
durable.write_all = write_half
made.step()
print(calls)
"""


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "_PAGE", PAGE)
    monkeypatch.setattr(replica_module, "_PAGES_AT_ONCE", 2)
    monkeypatch.setattr(replica_module, "_FEW", 0)


def enroll(keys: Keys, count: int = USERS) -> dict[str, PublicKey]:
    """Give these users new keys in one transaction; returns the keys."""
    found = {f"user{number}@example.org": key() for number in range(count)}
    with keys.open().write("", count) as write:
        write.execute("DELETE FROM mailseal_public_keys")
        for number, (user, made) in enumerate(found.items(), write.change - count + 1):
            write.execute(
                "INSERT INTO mailseal_public_keys (name, state, body, change_number) "
                "VALUES (%s, %s, %s, %s)",
                user.encode(),
                ENROLLED,
                encode(user, made),
                number,
            )
    return found


def key_files(host: Host) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in Path(host.store.folder).glob("*.json")}


def is_complete(host: Host, found: dict[str, PublicKey]) -> bool:
    """Also after a restart: nothing is left of the killed processes, and nothing is missing."""
    names = {path.name for path in Path(host.store.folder, "enrolled").iterdir()}
    left = list(Path(host.store.folder).rglob(f"*{durable.LEFT_OVER}"))
    return (
        key_files(host) == {user: encode(user, made) for user, made in found.items()}
        and names == set(found)
        and not any(host.store.is_suspended(user) for user in found)
        and left == []
        and host.says_not_enrolled("stranger@example.org")
    )


def killed(keys: Keys, host: Host, last: int) -> subprocess.CompletedProcess[str]:
    """One step of a replica that is killed at its call number `last`; 0: never."""
    lib = str(Path(opening.__file__).parents[2])
    values = [lib, keys.url, host.store.folder, str(PAGE), str(last)]
    return subprocess.run(
        [sys.executable, "-c", STEP, *values], capture_output=True, text=True, timeout=120
    )


def test_killed_at_random_points(postgresql: Keys, tmp_path: Path) -> None:
    """Each process goes on where the one before was killed."""
    postgresql.empty()
    found = enroll(postgresql)
    host = Host(postgresql, tmp_path / "public")
    chance = random.Random(13)
    for _ in range(KILLS):
        # A process that finds all files reads two of each user.
        done = killed(postgresql, host, chance.randrange(1, 2 * USERS))
        assert done.returncode == -signal.SIGKILL, done.stderr
        for user, data in key_files(host).items():
            assert data == encode(user, found[user]) and host.store.is_marked(user)
        assert not any(host.says_not_enrolled(user) for user in (*found, "stranger@example.org"))
    assert killed(postgresql, host, 0).returncode == 0
    assert is_complete(host, found)


def test_killed_at_the_end(postgresql: Keys, tmp_path: Path) -> None:
    """Before, between and after the writing of position and lease."""
    postgresql.empty()
    found = enroll(postgresql)
    whole = killed(postgresql, Host(postgresql, tmp_path / "whole"), 0)
    assert whole.returncode == 0, whole.stderr
    for last in range(int(whole.stdout), int(whole.stdout) - 12, -3):
        host = Host(postgresql, tmp_path / str(last))
        assert killed(postgresql, host, last).returncode == -signal.SIGKILL
        assert not any(host.says_not_enrolled(user) for user in found)
        assert not host.replica.is_filled or key_files(host).keys() == found.keys()
        assert killed(postgresql, host, 0).returncode == 0
        assert is_complete(host, found)


def test_readers_see_whole_files_only(server: Keys, host: Host) -> None:
    """During the first copy, and while all users get new keys."""

    def answers(user: str) -> Iterator[str | None]:
        for look_up in (
            lambda: host.store.lookup(user),
            lambda: local_keys.look_up(host.store.folder, user.encode()),
        ):
            try:
                seen = look_up()
            except Damaged:
                raise
            except TemporaryError as exc:
                assert not before and "damaged" not in str(exc), exc
                continue
            yield seen.dovecot_string() if isinstance(seen, PublicKey) else seen

    before: dict[str, str] = {}
    for _ in range(2):
        found = enroll(server)
        after = {user: made.dovecot_string() for user, made in found.items()}
        writer = threading.Thread(target=host.replica.step)
        writer.start()
        running = True
        while running:
            running = writer.is_alive()
            for user in found:
                assert set(answers(user)) <= {before.get(user, after[user]), after[user]}
        writer.join()
        assert is_complete(host, found)
        before = after


def test_after_a_power_failure(server: Keys, tmp_path: Path) -> None:
    """Files that were not synced are empty, cut off or missing; the position is not there."""
    found = enroll(server)
    host = Host(server, tmp_path / "public")
    host.replica.step()
    folder = Path(host.store.folder)
    users = list(found)
    for user, size in zip(users, (0, 1, 100, len(encode(users[3], key())) - 1), strict=False):
        os.truncate(folder / f"{user}.json", size)
    (folder / "enrolled" / users[5]).unlink()
    (folder / f"{users[6]}.json").unlink()
    for name in (users[7], users[8]):
        (folder / "enrolled" / name).unlink()
        (folder / f"{name}.json").unlink()
    (folder / f"copying{durable.LEFT_OVER}").write_bytes(b"{")
    (folder / "position").unlink()
    (folder / "mailseal-public-keys").unlink()
    host.store.prepare(replica=True)
    assert not any(host.says_not_enrolled(user) for user in users)
    Host(server, folder).replica.step()
    assert is_complete(host, found)


def test_files_of_a_killed_process_are_synced_before_the_position(
    server: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote all of them and synced none."""
    enroll(server)
    host = Host(server, tmp_path / "public")

    def never(path: str) -> None:
        raise TemporaryError("killed")

    real_sync, real_replace, calls = durable.sync_file_system, durable.replace, list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync_file_system", never)
        patch.setattr(replica_module, "_PAGES_AT_ONCE", 1000, raising=False)
        with pytest.raises(TemporaryError, match="killed"):
            host.replica.step()
    assert len(key_files(host)) == USERS and not host.replica.is_filled

    def sync(path: str) -> None:
        calls.append("sync")
        real_sync(path)

    def replace(path: str, *values: object, **options: object) -> None:
        calls.append(os.path.basename(path))
        real_replace(path, *values, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(durable, "sync_file_system", sync)
    monkeypatch.setattr(durable, "replace", replace)
    host = Host(server, tmp_path / "public")
    calls.clear()
    host.replica.step()
    assert calls[:2] == ["sync", "position"]


def test_a_copy_that_is_resumed_doubts_strangers(server: Keys, tmp_path: Path) -> None:
    """The database was restored in between, and has lost a user: the mail is deferred."""
    found = enroll(server)
    host = Host(server, tmp_path / "public")
    host.store.publish("lost@example.org", key())
    host.replica.step()
    assert host.store.is_suspended("lost@example.org")
    assert not host.says_not_enrolled("lost@example.org")
    assert all(host.store.lookup(user) == made for user, made in found.items())


def test_each_page_is_a_sign_of_life_for_the_watchdog(server: Keys, tmp_path: Path) -> None:
    """A comparison of a million users takes longer than WatchdogSec."""
    enroll(server)
    host = Host(server, tmp_path / "public")
    pages: list[int] = []
    replica = replica_module.Replica(
        host.database,
        host.store,
        name="mx",
        seconds=30,
        log=LOG,
        progress=lambda: pages.append(len(key_files(host))),
    )
    replica.step()
    assert pages == [20, 40, 60, 80, 100, 110]


def test_names_that_are_in_the_way_are_replaced(server: Keys, tmp_path: Path) -> None:
    """Links in the folder are not followed."""
    found = enroll(server)
    host = Host(server, tmp_path / "public")
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    users = list(found)
    folder = Path(host.store.folder)
    (folder / f"{users[0]}.json").symlink_to(outside)
    (folder / "enrolled" / users[1]).symlink_to(outside)
    (folder / "enrolled" / users[2]).write_bytes(LEAVING)
    host.replica.step()
    assert is_complete(host, found) and outside.read_bytes() == b""
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_a_folder_without_users_is_empty(tmp_path: Path, server: Keys) -> None:
    host = Host(server, tmp_path / "public")
    files = Copying(host.store.folder)
    assert files.is_empty()
    host.store.publish("one", key())
    assert not files.is_empty()
    os.unlink(f"{host.store.folder}/one.json")
    assert not files.is_empty()
