# SPDX-License-Identifier: MIT
"""Unlocks index folders before a login is answered, and locks them after the last session.

CONTRACT
    unlock() returns the fields with which Dovecot uses the folder.  If it cannot be unlocked, it
    returns none, and Dovecot uses the index of the mail location.  A failure here never makes a
    login fail.  If the file system does not answer, the first login waits _PATIENCE seconds, and
    the next ones not at all, until it answers; a folder that is unlocked then is locked by sweep().
    sweep() locks the folder of each user who has had no connection, according to Dovecot's anvil,
    and no login for `lock_after` seconds.  So without a session a folder is unlocked at most for
    `lock_after` seconds and the time between two sweeps.
    While anvil cannot be asked, no folder is locked, for up to _UNKNOWN times `lock_after`.  After
    that, or if anvil was restarted, the kernel decides: if files of the folder are open when its
    key is removed, the key is added again at once, and removed later.

    The kernel keeps keys after this process has ended.  adopt() finds the keys of an earlier agent;
    sweep() locks their folders too, but cannot add the keys again.
    A lock by a command (`mailseal lock USER`, a rekey) is not reverted: open files stay readable
    in their sessions, and sweep() removes the key again until they are closed.

    Locking a folder blocks only a login of the same user, for 3 to 15 ms: data that are not written
    yet are written before, without a lock.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from mailseal.login.read_ahead import ReadAhead

Sessions = Callable[[], Awaitable[set[str]]]
"""Asks who is logged in (anvil.py).  Raises TemporaryError."""

_T = TypeVar("_T")
_LOCKS = 1024
_SESSION_BEGINS = 10.0
"""Seconds from the answer to a login until anvil knows the session; normally below 0.1."""

_UNKNOWN = 10
_PATIENCE = 3.0
"""Unlocking takes less than a millisecond, and longer only if the disk is very busy."""

_SWEEPING = 20.0
"""Seconds that sweep() waits for a busy disk; systemd waits 90 for the agent's end."""


@dataclasses.dataclass
class _Open:
    """An unlocked folder.  It has no key if it was adopted."""

    identifier: bytes
    key: bytes | None
    used: float
    user: str = ""


class OpenFolders:
    """The index folders of all users.  Used by the event loop only, not by several threads."""

    def __init__(
        self,
        folders: Folders,
        *,
        version: str,
        lock_after: float,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        ahead: ReadAhead | None = None,
    ) -> None:
        self._folders = folders
        self._ahead = ahead
        self._version = version
        self._lock_after = lock_after
        self._log = log
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._closing: dict[bytes, str] = {}
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]
        self._told: set[str] = set()
        self._problem = ""
        self._untidy = True
        self._unknown_since: float | None = None
        self._stopped = False
        self._adopted = asyncio.Event()
        self._adopted.set()
        self._hanging: set[asyncio.Task[list[tuple[str, str]]]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self._threads = concurrent.futures.ThreadPoolExecutor(4, thread_name_prefix="indexes")
        self._sync = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="sync of indexes")

    @property
    def number_open(self) -> int:
        """Number of folders that are unlocked."""
        return len(self._open)

    def count(self) -> int:
        """Number of folders of users.  For any thread.  Raises OSError."""
        return self._folders.count()

    async def unlock(self, user: str, key: bytes) -> list[tuple[str, str]]:
        """The fields of a login with the key of this user's folder.  Never fails."""
        if self._hanging:
            return []
        task = asyncio.create_task(self._unlock(user, key))
        await asyncio.wait({task}, timeout=_PATIENCE)
        if task.done():
            return task.result()
        self._hanging.add(task)
        task.add_done_callback(self._hanging.discard)
        self._problem = self._tell(f"the index of <{user}> is not encrypted", _no_answer())
        return []

    async def _unlock(self, user: str, key: bytes) -> list[tuple[str, str]]:
        name = folder_name(user)
        async with self._lock(name):
            try:
                identifier = await self._run(lambda: self._add(name, key))
            except OSError as exc:
                self._problem = self._tell(f"the index of <{user}> is not encrypted", exc)
                return []
            self._problem = ""
            before = self._open.get(name)
            if before is not None and before.identifier != identifier:
                self._closing[before.identifier] = name
                self._untidy = True
            self._closing.pop(identifier, None)
            self._open[name] = _Open(identifier, key, self._clock(), user)
            if self._ahead is not None and before is None:
                self._ahead.begin(name)
        return self._fields(self._folders.path(name))

    def fields_if_open(self, user: str) -> list[tuple[str, str]] | None:
        """The fields of a login for a folder that is unlocked; None if it is not."""
        name = folder_name(user)
        return self._fields(self._folders.path(name)) if name in self._open else None

    async def sweep(self, users: set[str] | None) -> None:
        """Lock the folders of all users except these, who have connections.  None: unknown.

        It returns after _SWEEPING seconds; the file system may answer later.
        """
        now = self._clock()
        for name in {folder_name(user) for user in users or ()} & self._open.keys():
            self._open[name].used = now
        if users is not None:
            self._unknown_since = None
        elif self._unknown_since is None:
            self._unknown_since = now
        if self._sweeping is None or self._sweeping.done():
            if not self._open and not self._closing:
                return
            self._sweeping = asyncio.create_task(self._lock_all_unused())
        await asyncio.wait({self._sweeping}, timeout=_SWEEPING)
        if self._sweeping.done():
            self._sweeping.result()
        else:
            self._tell("the index folders are not locked", _no_answer())

    async def _lock_all_unused(self) -> None:
        now = self._clock()
        over = [name for name in self._open if not self._is_used(name, now)]
        if over or self._closing:
            await self._write_out()
        for name in over:
            await self._lock_unused(name)
        for identifier, name in list(self._closing.items()):
            async with self._lock(name):
                if identifier in self._closing:
                    await self._remove(name, identifier)

    def _is_used(self, name: str, now: float) -> bool:
        """Whether a folder has, or may have, a connection."""
        one = self._open.get(name)
        if one is None or now - one.used < self._lock_after:
            return True
        since = self._unknown_since
        return since is not None and now - since < _UNKNOWN * self._lock_after

    async def lock(self, user: str) -> bool:
        """Lock one folder, even during a session.  Returns whether it was unlocked."""
        await self._adoption()
        return await self._lock_name(folder_name(user))

    async def lock_all(self) -> dict[str, str]:
        """Lock all folders.  Returns their names and users; a user may be unknown ("")."""
        await self._adoption()
        locked = {name: one.user for name, one in self._open.items()}
        for name in locked:
            await self._lock_name(name)
        return locked

    async def forget(self, user: str) -> None:
        """The user is not enrolled any more: lock the folder, and put it aside."""
        await self.lock(user)
        with contextlib.suppress(OSError):
            await self._run(lambda: self._folders.drop(folder_name(user)))
        self._untidy = True

    async def tidy(self, empty: Callable[[str, list[str]], Awaitable[None]]) -> None:
        """Remove folders that were put aside: `empty` removes what is in them."""
        if not self._untidy or self._closing:
            return
        self._untidy = False
        try:
            names = await self._run(self._folders.aside)
        except OSError:
            return
        await empty(self._folders.root, names)
        for name in names:
            with contextlib.suppress(OSError):  # at the next start again
                await self._run(functools.partial(self._folders.remove, name))

    async def stop(self, users: set[str] | None) -> None:
        """Lock all folders, except those of these users and of logins whose session may start yet.

        If it is unknown who has connections, the kernel decides.  The next agent adopts the rest.
        """
        self._lock_after = min(self._lock_after, _SESSION_BEGINS)
        if self._sweeping is not None:
            await asyncio.wait({self._sweeping}, timeout=_SWEEPING)
        await self.sweep(users or set())
        self._stopped = True
        if self._ahead is not None:
            self._ahead.stop()
        for threads in (self._threads, self._sync):
            threads.shutdown(wait=False, cancel_futures=True)

    async def adopt(self) -> None:
        """Find the folders that an earlier agent has unlocked."""
        self._adopted.clear()
        try:
            found = await self._run(self._folders.open_ones)
        except OSError as exc:
            self._problem = self._tell("indexes are not encrypted", exc)
            return
        finally:
            self._adopted.set()
        adopted = found.keys() - self._open.keys()
        for name in adopted:
            self._open[name] = _Open(found[name], None, self._clock())
        if adopted:
            self._log.info("index folders found unlocked: %d", len(adopted))

    async def _adoption(self) -> None:
        """Wait for adopt(), but not for a file system that does not answer."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._adopted.wait(), _PATIENCE)

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
            if one is None or self._is_used(name, self._clock()):
                return  # there was a login in the meantime
            if await self._remove(name, one.identifier) is not State.BUSY:
                del self._open[name]
                self._log.info("index locked: %s", name)
            elif one.key is not None:
                await self._add_again(name, one, one.key)
            else:
                del self._open[name]

    async def _add_again(self, name: str, one: _Open, key: bytes) -> None:
        try:
            await self._run(lambda: self._add(name, key))
        except OSError as exc:
            del self._open[name]
            self._tell(f"the index {name} is in use and was locked", exc)
        else:
            one.used = self._clock()
            self._closing.pop(one.identifier, None)

    def _add(self, name: str, key: bytes) -> bytes:
        identifier = self._folders.unlock(name, key)
        if self._stopped:  # the file system has answered too late: nobody would lock it
            self._folders.lock(identifier)
        return identifier

    async def _lock_name(self, name: str) -> bool:
        async with self._lock(name):
            one = self._open.pop(name, None)
            if one is not None:
                await self._remove(name, one.identifier)
        return one is not None

    async def _remove(self, name: str, identifier: bytes) -> State | None:
        """Remove a key.  If this fails, the next sweep() tries again."""
        if self._ahead is not None:
            await self._ahead.end(name)
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

    async def _write_out(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._sync, self._folders.sync)
        except OSError as exc:
            self._tell("the file system of the index folders could not be synced", exc)

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
        """Log a warning once for each reason, and not at each login.  Returns the reason."""
        reason = getattr(exc, "strerror", None) or str(exc)
        if reason not in self._told:
            self._told.add(reason)
            self._log.warning("%s: %s", what, reason)
        return reason


def _no_answer() -> TimeoutError:
    return TimeoutError("the file system of the index folders does not answer")
