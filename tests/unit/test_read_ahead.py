# SPDX-License-Identifier: MIT
"""Index folders are read ahead after they were unlocked, which keeps none from being locked."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import mmap
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mailseal.index import ahead
from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from mailseal.login.keeper import Keeper
from mailseal.login.open_folders import OpenFolders
from mailseal.login.read_ahead import ReadAhead
from tests.lab.place import MAIL_UID
from tests.lab.process import wait_until
from tests.volumes import volume_or_skip

LOG = logging.getLogger("test")
KEY = bytes(range(64))
USER = "alice@example.org"
NAME = folder_name(USER)
CACHE = ".INBOX/dovecot.index.cache"
LIMIT = 64 << 20


@pytest.fixture(scope="module")
def volume() -> Iterator[str]:
    with volume_or_skip(256 << 20) as folder:
        yield folder


@pytest.fixture
def folders(volume: str, tmp_path: Path) -> Folders:
    """As `mailseal init` makes it: the owner of the mail cannot list it."""
    root = os.path.join(volume, tmp_path.name)
    os.mkdir(root)
    os.chmod(root, 0o2711)
    return Folders(root, MAIL_UID)


@pytest.fixture
def keeper(folders: Folders) -> Iterator[Keeper]:
    made = Keeper.start(folders.root, MAIL_UID, MAIL_UID)
    yield made
    made.close()
    os.waitpid(made.pid, 0)


def fill(folders: Folders, files: Mapping[str, int | bytes]) -> None:
    """Files as Dovecot makes them: only the owner of the mail can open them.  Then lock it.

    `files`: the contents; a number stands for so many bytes.
    """
    identifier = folders.unlock(NAME, KEY)
    for name, data in files.items():
        path = os.path.join(folders.path(NAME), name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(os.urandom(data) if isinstance(data, int) else data)
        os.chmod(path, 0o600)
        for one in (path, os.path.dirname(path)):
            if one != folders.path(NAME):
                os.chown(one, MAIL_UID, MAIL_UID)
    folders.sync()
    assert folders.lock(identifier) is State.ABSENT


@contextlib.contextmanager
def unlocked(folders: Folders) -> Iterator[None]:
    identifier = folders.unlock(NAME, KEY)
    try:
        yield
    finally:
        folders.lock(identifier)


def resident(path: str) -> float:
    """The part of a file that is in the kernel's memory."""
    pages = resident_pages(path)
    return len(pages) / -(-os.stat(path).st_size // mmap.PAGESIZE)


def resident_pages(path: str) -> list[int]:
    """The numbers of a file's pages that are in the kernel's memory."""
    size = os.stat(path).st_size
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    fd = os.open(path, os.O_RDONLY)
    try:
        with mmap.mmap(fd, size, access=mmap.ACCESS_COPY) as data:
            first = ctypes.c_char.from_buffer(data)
            libc = ctypes.CDLL(None, use_errno=True)
            address = ctypes.c_void_p(ctypes.addressof(first))
            assert libc.mincore(address, ctypes.c_size_t(size), pages) == 0
            del first
    finally:
        os.close(fd)
    return [number for number, one in enumerate(pages) if one & 1]


def opened(folders: Folders, keeper: Keeper | None, limit: int = LIMIT) -> OpenFolders:
    reading = ReadAhead(keeper, limit, LOG) if keeper else None
    return OpenFolders(folders, version="2.4", lock_after=60, log=LOG, ahead=reading)


async def finished(index: OpenFolders) -> None:
    assert index._ahead is not None
    for job, _ in index._ahead._reading.values():
        await asyncio.wrap_future(job)


def test_what_is_read_ahead(folders: Folders, keeper: Keeper) -> None:
    """And nothing after the second login: it is in memory already."""
    fill(folders, {CACHE: 5 << 20, ".Sent/dovecot.index.cache": 1 << 20})

    async def login() -> None:
        index = opened(folders, keeper)
        paths = [os.path.join(folders.path(NAME), name) for name in (CACHE, ".Sent/" + CACHE[7:])]
        assert await index.unlock(USER, KEY)
        await finished(index)
        assert [resident(path) for path in paths] == [1, 1]
        assert await index.unlock(USER, KEY)
        assert all(job.done() for job, _ in index._ahead._reading.values())  # type: ignore[union-attr]
        assert await index.lock(USER)

    asyncio.run(login())
    identifier = folders.unlock(NAME, KEY)
    assert resident(os.path.join(folders.path(NAME), CACHE)) == 0, "a lock drops it"
    folders.lock(identifier)


def test_the_limit_and_the_order(folders: Folders) -> None:
    files = {
        ".Sent/dovecot.index": 10,
        ".INBOX/fts-flatcurve/index.1/postlist.glass": 3 << 20,
        ".INBOX/fts-flatcurve/index.1/iamglass": 100,
        CACHE: 2 << 20,
        ".INBOX/dovecot.index": 5000,
        "dovecot.list.index.log": 400,
    }
    fill(folders, files)
    identifier = folders.unlock(NAME, KEY)
    try:
        found = ahead.plan(folders.root, NAME, LIMIT)
        names = list(dict.fromkeys("/".join(one.path[1:]) for one in found))
        assert names == [
            ".INBOX/fts-flatcurve/index.1/iamglass",
            "dovecot.list.index.log",
            ".INBOX/dovecot.index",
            CACHE,
            ".Sent/dovecot.index",
            ".INBOX/fts-flatcurve/index.1/postlist.glass",
        ]
        assert sum(one.size for one in found) == sum(files.values())
        assert max(one.size for one in found) == ahead.PIECE
        few = ahead.plan(folders.root, NAME, 1 << 20)
        assert sum(one.size for one in few) == 1 << 20
    finally:
        folders.lock(identifier)


def test_links_and_other_files_are_not_read(folders: Folders, tmp_path: Path) -> None:
    """The owner of the mail can put them there, also between plan() and read()."""
    fill(folders, {CACHE: 5000})
    identifier = folders.unlock(NAME, KEY)
    inbox = os.path.join(folders.path(NAME), ".INBOX")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "dovecot.index.cache").write_bytes(bytes(5000))
    os.symlink(secret, os.path.join(folders.path(NAME), ".Link"))
    os.symlink("/dev/zero", os.path.join(inbox, "zero"))
    os.mkfifo(os.path.join(inbox, "fifo"))
    try:
        found = ahead.plan(folders.root, NAME, LIMIT)
        assert [one.path[1:] for one in found] == [(".INBOX", "dovecot.index.cache")]
        with pytest.raises(OSError, match="symbolic links"):
            ahead._open(folders.root, (NAME, ".INBOX", "zero"))
        with pytest.raises(OSError, match="Not a directory"):
            ahead._open(folders.root, (NAME, ".Link", "dovecot.index.cache"))
        ahead.read(folders.root, ahead.Piece((NAME, ".INBOX", "fifo"), 0, 100))
        ahead.read(folders.root, ahead.Piece((NAME, ".INBOX", "zero"), 0, 100))
    finally:
        folders.lock(identifier)


def test_a_lock_while_it_is_read(folders: Folders, keeper: Keeper) -> None:
    """No file is open then: the lock is complete at once, whenever it comes."""
    fill(folders, {CACHE: 24 << 20})

    def has_begun() -> bool:
        return resident(os.path.join(folders.path(NAME), CACHE)) > 0

    async def rounds() -> None:
        index = opened(folders, keeper)
        for number in range(10):
            assert await index.unlock(USER, KEY)
            if number % 2:
                await asyncio.to_thread(wait_until, has_begun, "it is being read")
            assert await index.lock(USER)
            found = folders.state(NAME)
            assert found is not None
            assert found[1] is State.ABSENT, f"round {number}"

    asyncio.run(rounds())


def test_a_process_that_does_not_answer(folders: Folders, keeper: Keeper) -> None:
    """Logins are answered, the folder is locked, and the agent can stop."""
    fill(folders, {CACHE: 5000})
    os.kill(keeper.pid, signal.SIGSTOP)

    async def login() -> None:
        index = opened(folders, keeper)
        for _ in range(2):
            assert await index.unlock(USER, KEY)
            assert await index.lock(USER)
            assert (found := folders.state(NAME)) and found[1] is State.ABSENT
        assert await index.unlock(USER, KEY)
        await index.stop(None)
        index._ahead.begin(NAME)  # type: ignore[union-attr]  # a login that was answered too late
        index._ahead._thread.shutdown(wait=True)  # type: ignore[union-attr]

    try:
        asyncio.run(asyncio.wait_for(login(), 120))
    finally:
        os.kill(keeper.pid, signal.SIGCONT)


def test_without_the_process_logins_continue(folders: Folders, keeper: Keeper) -> None:
    fill(folders, {CACHE: 5000})
    keeper.close()

    async def login() -> None:
        index = opened(folders, keeper)
        for _ in range(2):
            assert await index.unlock(USER, KEY)
            await finished(index)
            assert await index.lock(USER)

    asyncio.run(login())
