# SPDX-License-Identifier: MIT
"""When index folders are locked: unknown sessions, a slow file system, locks on other hosts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import TemporaryError
from mailseal.index import fscrypt
from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from mailseal.keys import opening
from mailseal.keys.sql.feed import Feed
from mailseal.login import open_folders
from mailseal.login.indexes import Indexes
from mailseal.login.open_folders import OpenFolders
from tests.lab.clusters import Keys
from tests.lab.place import MAIL_UID
from tests.lab.process import wait_until
from tests.unit.agent_process import AgentProcess, running
from tests.unit.test_move_store import in_database
from tests.volumes import volume_or_skip

LOG = logging.getLogger("test")
KEY = bytes(range(64))
USER = "alice@example.org"
OTHER = "bob@example.org"


@pytest.fixture(scope="module")
def volume() -> Iterator[str]:
    with volume_or_skip(64 << 20) as folder:
        yield folder


@pytest.fixture
def root(volume: str, tmp_path: Path) -> str:
    path = os.path.join(volume, tmp_path.name)
    os.mkdir(path)
    return path


class Dovecot:
    """What anvil says; None: it cannot be asked."""

    def __init__(self) -> None:
        self.connected: set[str] | None = set()
        self.now = 1000.0

    async def sessions(self) -> set[str]:
        if self.connected is None:
            raise TemporaryError("cannot be asked")
        return self.connected


class Slow(Folders):
    """A file system that does not answer until it is told to."""

    def __init__(self, root: str) -> None:
        super().__init__(root, MAIL_UID)
        self.answers = threading.Event()

    def unlock(self, name: str, key: bytes | bytearray) -> bytes:
        self.answers.wait()
        return super().unlock(name, key)

    def open_ones(self) -> dict[str, bytes]:
        self.answers.wait()
        return super().open_ones()


def made(folders: Folders, dovecot: Dovecot, lock_after: float = 60) -> Indexes:
    opened = OpenFolders(
        folders, version="2.3", lock_after=lock_after, log=LOG, clock=lambda: dovecot.now
    )
    return Indexes(opened, None, dovecot.sessions, lock_after=lock_after, log=LOG)


def state(folders: Folders, user: str = USER) -> State:
    found = Folders.state(folders, folder_name(user))
    assert found is not None
    return found[1]


def test_unknown_sessions_keep_folders_open_for_a_bounded_time(root: str) -> None:
    """A connection that has no file open is not locked out while anvil cannot be asked."""
    folders, dovecot = Folders(root, MAIL_UID), Dovecot()

    async def steps() -> None:
        indexes = made(folders, dovecot)
        await indexes.unlock(USER, KEY)
        dovecot.connected = {USER}
        await indexes.sweep()
        dovecot.connected = None
        for later in (61, 300, 230):
            dovecot.now += later
            await indexes.sweep()
            assert state(folders) is State.PRESENT
        assert await indexes.lock_all() == [USER], "it may have connections"
        await indexes.unlock(USER, KEY)
        assert await indexes.lock(USER) == [USER], "it may have connections"
        await indexes.unlock(USER, KEY)
        dovecot.now += 9.5  # 600.5 seconds after the first failure
        await indexes.sweep()
        assert state(folders) is State.PRESENT, "there was a login just now"
        dovecot.now += 61
        await indexes.sweep()
        assert state(folders) is State.ABSENT
        await indexes.stop()

    asyncio.run(asyncio.wait_for(steps(), 120))


def test_an_answer_of_anvil_counts_at_once(root: str) -> None:
    folders, dovecot = Folders(root, MAIL_UID), Dovecot()

    async def steps() -> None:
        indexes = made(folders, dovecot)
        for user in (USER, OTHER):
            await indexes.unlock(user, KEY if user == USER else KEY[::-1])
        dovecot.connected = None
        await indexes.sweep()
        dovecot.now += 400
        await indexes.sweep()
        dovecot.connected = {OTHER}
        await indexes.sweep()
        assert (state(folders), state(folders, OTHER)) == (State.ABSENT, State.PRESENT)
        dovecot.connected = None  # the time begins again
        for _ in range(2):
            dovecot.now += 300
            await indexes.sweep()
            assert state(folders, OTHER) is State.PRESENT
        await indexes.stop()
        assert state(folders, OTHER) is State.ABSENT, "nobody would lock it after the end"

    asyncio.run(asyncio.wait_for(steps(), 120))


def test_a_file_system_that_does_not_answer(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logins continue without an encrypted index; a folder unlocked late is locked."""
    monkeypatch.setattr(open_folders, "_PATIENCE", 0.1)
    folders, dovecot = Slow(root), Dovecot()

    async def steps() -> None:
        indexes = made(folders, dovecot)
        runs = asyncio.create_task(indexes.run())  # adopts
        try:
            assert await indexes.unlock(USER, KEY) == []
            monkeypatch.setattr(open_folders, "_PATIENCE", 1e9)
            assert await indexes.unlock(OTHER, KEY[::-1]) == [], "it does not even wait"
            assert "does not answer" in indexes.describe(USER)["problem"]
            folders.answers.set()
            while indexes.fields_if_open(USER) is None:
                await asyncio.sleep(0.01)
            assert state(folders) is State.PRESENT
            while not await indexes.unlock(OTHER, KEY[::-1]):
                await asyncio.sleep(0.01)
            dovecot.now += 61
            await indexes.sweep()
            assert state(folders) is state(folders, OTHER) is State.ABSENT
        finally:
            folders.answers.set()
            runs.cancel()
        await indexes.stop()

    asyncio.run(asyncio.wait_for(steps(), 120))


def test_a_folder_that_is_unlocked_after_the_end(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent stops while the file system does not answer: no key stays in the kernel."""
    monkeypatch.setattr(open_folders, "_PATIENCE", 0.1)
    folders, dovecot = Slow(root), Dovecot()

    async def steps() -> None:
        indexes = made(folders, dovecot)
        assert await indexes.unlock(USER, KEY) == []
        await indexes.stop()

    asyncio.run(asyncio.wait_for(steps(), 120))
    folders.answers.set()
    for thread in threading.enumerate():
        if thread.name.startswith("indexes"):
            thread.join()
    assert state(folders) is State.ABSENT


def test_a_read_only_file_system_is_not_used(root: str) -> None:
    """Otherwise the login succeeds, and Dovecot cannot write its index."""
    folders = Folders(root, MAIL_UID)
    identifier = folders.unlock("user", KEY)
    folders.lock(identifier)
    subprocess.run(["chattr", "+i", root], check=True)
    fd = os.open(root, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="not permitted"):
            folders.unlock("user", KEY)
        assert fscrypt.state(fd, identifier) is State.ABSENT
    finally:
        os.close(fd)
        subprocess.run(["chattr", "-i", root], check=True)


class Host:
    """An agent with index folders of its own."""

    def __init__(self, agent: AgentProcess, folders: Folders) -> None:
        self.agent, self.folders = agent, folders

    def login(self, user: str, password: bytes = b"pw") -> str:
        return self.agent.ask("unlock", user=user.encode(), password=password).status

    def state(self, user: str) -> State:
        return state(self.folders, user)

    def has_session(self, user: str) -> bool:
        users = self.agent.ask("status", user=user.encode()).fields["users"]
        return b'"session": null' not in users


@pytest.fixture
def hosts(server: Keys, tmp_path: Path) -> Iterator[list[Host]]:
    """Each with a file system of its own: keys belong to the file system."""

    def start(name: str, volume: str) -> AbstractContextManager[AgentProcess]:
        os.mkdir(tmp_path / name)
        options = f"index: {{folder: {volume}/index, lock_after: 1h}}\n"
        return running(
            tmp_path / name, f"{in_database(server)}{options}delivery: {{user: {MAIL_UID}}}\n"
        )

    if os.environ.get("MAILSEAL_VOLUME"):
        pytest.skip("no file system with fscrypt can be made here: MAILSEAL_VOLUME is set")
    with contextlib.ExitStack() as stack:
        volumes = [stack.enter_context(volume_or_skip(32 << 20)) for _ in range(2)]
        yield [
            Host(
                stack.enter_context(start(name, volume)),
                Folders(f"{volume}/index", MAIL_UID),
            )
            for name, volume in zip(("one", "two"), volumes, strict=True)
        ]


@pytest.mark.parametrize("whose", ["one", "all"])
def test_lock_on_another_host_locks_the_folder(hosts: list[Host], whose: str) -> None:
    """But not after a login that came later, and not at another change of the keyring."""
    one, two = hosts
    for user in (USER, OTHER):
        assert one.agent.ask("enroll", user=user.encode(), password=b"pw").status == "ok"
        for host in hosts:
            assert host.login(user) == "ok"
    fields = {"user": USER.encode()} if whose == "one" else {}
    assert one.agent.ask("lock", **fields).status == "ok"
    assert one.state(USER) is State.ABSENT
    assert one.login(USER) == "ok"
    wait_until(lambda: two.state(USER) is State.ABSENT, "the other host has locked the folder")
    if whose == "one":
        assert two.state(OTHER) is State.PRESENT
    for host in hosts:
        assert host.login(OTHER) == "ok"
    new = {"user": OTHER.encode(), "old": b"pw", "new": b"second"}
    assert two.agent.ask("passwd", **new).status == "ok"
    wait_until(lambda: not one.has_session(OTHER), "the change of the password arrives")
    assert one.state(OTHER) is State.PRESENT, "a password change locks nothing"
    assert one.state(USER) is State.PRESENT, "its own lock does not end a later login"


def test_an_agent_does_not_hear_of_its_own_locks(server: Keys) -> None:
    """Otherwise a login after the lock would find its folder locked again."""
    one, two = server.open(), server.open()
    feeds = [Feed(one), Feed(two)]
    keyrings, public = opening.rows(one)
    before = feeds[0].now()
    public.publish(USER, PrivateKey.generate().public)
    assert [feed.since(before)[1:] for feed in feeds] == [([USER], [])] * 2
    before = feeds[0].now()
    keyrings.end_sessions(OTHER)
    assert [feed.since(before)[1:] for feed in feeds] == [([OTHER], []), ([OTHER], [OTHER])]
    before = feeds[0].now()
    keyrings.end_sessions(None)
    assert [feed.since(before)[1:] for feed in feeds] == [(None, []), (None, None)]
