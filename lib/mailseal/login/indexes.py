# SPDX-License-Identifier: MIT
"""Which index folders are unlocked: from before a login is answered until the last session ends.

CONTRACT
    unlock() gives the fields with which Dovecot uses the folder; none if it cannot be unlocked, and
    then Dovecot uses the index of those who are not enrolled.  A fault here never fails a login.
    sweep() locks the folder of each user whom Dovecot's anvil has not named for `lock_after`
    seconds; a login counts as named.  So a folder is open for a user without a session for
    `lock_after` seconds and the time between two sweeps at most.
    Anvil may have forgotten, or cannot be asked: then the kernel decides.  If files of the folder
    are open when its key is removed, the key is added again at once, and removed later.

    Keys outlive this process.  adopt() finds those that an earlier agent has added; sweep() locks
    them like the others, but cannot add them again.
    A lock that was asked for (`mailseal lock`, rekey) is not taken back: files that are open stay
    readable in their sessions, and sweep() removes the key again until they are closed.

    locking a folder blocks only a login of the same user, for 3 to 15 ms: what is not written yet
    is written before, without a lock.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.errors import ConfigError, TemporaryError
from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from mailseal.login import anvil

Sessions = Callable[[], Awaitable[set[str]]]
"""Asks who is logged in (anvil.py).  Raises TemporaryError."""

_T = TypeVar("_T")
_LOCKS = 1024
_SWEEP_EVERY = 10.0


@dataclasses.dataclass
class _Open:
    """An unlocked folder.  Without a key it was adopted."""

    identifier: bytes
    key: bytes | None
    used: float


class Indexes:
    """The index folders of all users.  Not for several threads: the event loop owns it."""

    def __init__(
        self,
        folders: Folders,
        sessions: Sessions,
        *,
        version: str,
        lock_after: float,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders = folders
        self._sessions = sessions
        self._version = version
        self._lock_after = lock_after
        self._log = log
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._closing: dict[bytes, str] = {}
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]
        self._told: set[str] = set()
        self._problem = ""
        self._threads = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="indexes")

    async def unlock(self, user: str, key: bytes) -> list[tuple[str, str]]:
        """The fields of a login with the key of this user's folder.  Never fails."""
        name = folder_name(user)
        async with self._lock(name):
            try:
                identifier = await self._run(lambda: self._folders.unlock(name, key))
            except OSError as exc:
                self._problem = self._tell(f"the index of <{user}> is not encrypted", exc)
                return []
            self._problem = ""
            before = self._open.get(name)
            if before is not None and before.identifier != identifier:
                self._closing[before.identifier] = name
            self._closing.pop(identifier, None)
            self._open[name] = _Open(identifier, key, self._clock())
        return self._fields(self._folders.path(name))

    async def sweep(self) -> None:
        """Lock the folders of users without a session."""
        if not self._open and not self._closing:
            return
        named = {folder_name(user) for user in await self._named()}
        now = self._clock()
        for name in named & self._open.keys():
            self._open[name].used = now
        unnamed = [name for name in self._open if name not in named]
        over = [name for name in unnamed if now - self._open[name].used >= self._lock_after]
        if over or self._closing:
            await self._quietly(self._folders.sync)
        for name in over:
            await self._lock_unused(name)
        for identifier, name in list(self._closing.items()):
            async with self._lock(name):
                if identifier in self._closing:
                    await self._remove(name, identifier)

    async def lock(self, user: str) -> list[str]:
        """Lock one folder, session or not; the user, if there are connections that used it."""
        return await self._lock_now([folder_name(user)])

    async def lock_all(self) -> list[str]:
        """Lock all folders; the users with connections that used them."""
        return await self._lock_now(list(self._open))

    async def stop(self) -> None:
        """Lock what nobody uses.  The next agent adopts the rest."""
        self._lock_after = 0
        await self.sweep()
        self._threads.shutdown()

    def adopt(self) -> int:
        """Find the folders that an earlier agent has unlocked; how many."""
        try:
            found = self._folders.open_ones()
        except OSError as exc:
            self._problem = self._tell("indexes are not encrypted", exc)
            return 0
        for name, identifier in found.items():
            self._open[name] = _Open(identifier, None, self._clock())
        return len(found)

    @property
    def sweep_every(self) -> float:
        """Seconds between two sweeps."""
        return min(_SWEEP_EVERY, self._lock_after / 2)

    def describe(self, user: str) -> dict[str, str]:
        """Where a user's index is, for `mailseal status`."""
        name = folder_name(user)
        if self._problem:
            return {"state": "not encrypted", "problem": self._problem}
        state = "open" if name in self._open else "locked"
        return {"state": state, "folder": self._folders.path(name)}

    async def _lock_unused(self, name: str) -> None:
        async with self._lock(name):
            one = self._open.get(name)
            if one is None or self._clock() - one.used < self._lock_after:
                return  # a login came meanwhile
            if await self._remove(name, one.identifier) is not State.BUSY:
                del self._open[name]
                self._log.info("index locked: %s", name)
            elif one.key is not None:
                await self._add_again(name, one, one.key)
            else:
                del self._open[name]

    async def _add_again(self, name: str, one: _Open, key: bytes) -> None:
        try:
            await self._run(lambda: self._folders.unlock(name, key))
        except OSError as exc:
            del self._open[name]
            self._tell(f"the index {name} is in use and was locked", exc)
        else:
            one.used = self._clock()
            self._closing.pop(one.identifier, None)

    async def _lock_now(self, names: list[str]) -> list[str]:
        if not any(name in self._open for name in names):
            return []
        users = {folder_name(user): user for user in await self._named()}
        locked = []
        for name in names:
            async with self._lock(name):
                one = self._open.pop(name, None)
                if one is not None:
                    await self._remove(name, one.identifier)
                    locked.append(name)
        return sorted(users[name] for name in locked if name in users)

    async def _named(self) -> set[str]:
        """The users whom anvil names; nobody if it cannot be asked."""
        try:
            return await self._sessions()
        except TemporaryError as exc:
            self._tell("IMAP and POP3 connections are not known", exc)
            return set()

    async def _remove(self, name: str, identifier: bytes) -> State | None:
        """Remove a key; what could not be done now is left to the next sweep()."""
        try:
            state = await self._run(lambda: self._folders.lock(identifier))
        except OSError as exc:
            self._tell(f"the index {name} is not locked", exc)
            state = None
        if state is State.ABSENT:
            self._closing.pop(identifier, None)
        else:
            self._closing[identifier] = name
        return state

    async def _quietly(self, job: Callable[[], None]) -> None:
        try:
            await self._run(job)
        except OSError as exc:
            self._tell("the index folders' file system is not written out", exc)

    async def _run(self, job: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, job)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks[hash(name) % _LOCKS]

    def _fields(self, path: str) -> list[tuple[str, str]]:
        if self._version == "2.4":
            return [
                ("namespace/inbox/mail_index_path", path),
                ("namespace/inbox/mail_cache_path", path),
            ]
        return [("mailseal_index", f":INDEX={path}:INDEXCACHE={path}")]

    def _tell(self, what: str, exc: Exception) -> str:
        """A warning, once for each reason: it would come with every login.  Returns the reason."""
        reason = getattr(exc, "strerror", None) or str(exc)
        if reason not in self._told:
            self._told.add(reason)
            self._log.warning("%s: %s", what, reason)
        return reason


def configured(config: Config, version: str, log: logging.Logger) -> Indexes | None:
    """The index folders, with those that an earlier agent has left unlocked; None without any."""
    if config.index.folder is None:
        return None
    try:
        owner = user_ids(config.delivery.user, "delivery.user")[0]
    except ConfigError as exc:
        log.warning("indexes are not encrypted: %s", exc)  # logins go on
        return None
    folders = Folders(config.index.folder, owner)
    socket_path = config.dovecot.anvil_socket
    found = Indexes(
        folders,
        lambda: anvil.logged_in(socket_path, version),
        version=version,
        lock_after=config.index.lock_after,
        log=log,
    )
    if adopted := found.adopt():
        log.info("index folders found unlocked: %d", adopted)
    return found
