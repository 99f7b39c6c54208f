# SPDX-License-Identifier: MIT
"""Thread pools for slow work: jobs in one pool do not wait for jobs in another one.

CONTRACT
    run()     opens a keyring for a login: `parallel` jobs run at the same time, `queue` more wait
    change()  a change that may need Argon2id: one at a time.  Requests of panels
              have a pool of their own, because anybody can send them
    quick()   file operations without Argon2id
    wait()    a question to another server, for example Dovecot
    look()    a lookup for a login, at the priority of the event loop; it may ask a database
    local()   reads or writes small files of this host for a login, and asks no database

    Many wrong passwords fill only the pool of run().  Status requests and
    changes continue.  If a pool and its queue are full, the next job raises
    AgentUnavailable at once.  Argon2id takes at most `memory_kib` in the pool
    of run(), and the share of one of its threads in each other pool.  If a slot was stored
    with a cost that needs more memory, its derivation runs alone in its pool.
    The threads, and those that Argon2 starts in them, have a lower
    priority than the event loop.  So logins with a session are answered even
    while wrong passwords are checked.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from mailseal.crypto import kdf
from mailseal.errors import AgentUnavailable

_T = TypeVar("_T")
# Nice 10 has a tenth of the weight of nice 0 in Linux's scheduler.
_NICE = 10
_CHANGES_WAITING = 64
_QUICK_AT_ONCE, _QUICK_WAITING = 2, 1000
_LOOKS_WAITING = 10000
# Dovecot answers a wrong password after two seconds.
_ASKING_AT_ONCE, _ASKING_WAITING = 8, 64


asked_by_panel: ContextVar[bool] = ContextVar("asked_by_panel", default=False)
"""Whether the current request came from one of agent.panel_users."""


@dataclasses.dataclass(frozen=True)
class Use:
    """How much a pool is used: jobs that run or wait, their largest number, and since the start all
    jobs and those that were refused."""

    taken: int
    places: int
    jobs: int
    refused: int


class ThreadPools:
    """All pools of the agent."""

    def __init__(self, *, parallel: int, queue: int, memory_kib: int) -> None:
        self._logins = _Pool("logins", parallel, queue, memory_kib)
        self._changes = _Pool("changes", 1, _CHANGES_WAITING, memory_kib // parallel)
        self._panels = _Pool("panels", 1, _CHANGES_WAITING, memory_kib // parallel)
        self._quick = _Pool("requests", _QUICK_AT_ONCE, _QUICK_WAITING, memory_kib // parallel)
        self._looks = _Pool("lookups", _QUICK_AT_ONCE, _LOOKS_WAITING, 0, polite=False)
        self._local = _Pool("files", _QUICK_AT_ONCE, _LOOKS_WAITING, 0, polite=False)
        self._asking = _Pool("questions to Dovecot", _ASKING_AT_ONCE, _ASKING_WAITING, 0)

    async def run(self, job: Callable[[], _T]) -> _T:
        """Open a keyring for a login.  The job continues even if the caller is cancelled."""
        return await self._logins.run(job)

    async def change(self, job: Callable[[], _T]) -> _T:
        """Make a change for an administrator or a panel; it may run Argon2id."""
        return await (self._panels if asked_by_panel.get() else self._changes).run(job)

    async def look(self, job: Callable[[], _T]) -> _T:
        """Do a lookup for a login: one or two stat calls."""
        return await self._looks.run(job)

    async def local(self, job: Callable[[], _T]) -> _T:
        """Read or write small files of this host for a login, however long a database takes."""
        return await self._local.run(job)

    async def wait(self, job: Callable[[], _T]) -> _T:
        """Ask another server, and wait for its answer."""
        return await self._asking.run(job)

    async def quick(self, job: Callable[[], _T]) -> _T:
        """Read, write or remove files, without Argon2id."""
        return await self._quick.run(job)

    def derive(self, password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        """Wait until the memory is free, then call kdf.derive.  For threads of a pool only."""
        pool: _Pool = _this_thread.pool
        return pool.derive(password, salt, cost, size)

    def use(self) -> dict[str, Use]:
        """Of the pools with jobs that may need Argon2id, by name."""
        pools = {"logins": self._logins, "changes": self._changes, "panels": self._panels}
        return {name: pool.use for name, pool in pools.items()}

    def stop(self) -> None:
        """Wait for running jobs; cancel those that have not started."""
        for_files = (self._quick, self._looks, self._local)
        for pool in (self._logins, self._changes, self._panels, *for_files, self._asking):
            pool.stop()


class _Pool:
    """Threads with a bounded queue and a limit on memory for Argon2id."""

    def __init__(
        self, name: str, parallel: int, queue: int, memory_kib: int, *, polite: bool = True
    ) -> None:
        self._polite = polite
        self._name = name
        self._pool = concurrent.futures.ThreadPoolExecutor(
            parallel, thread_name_prefix=name, initializer=self._enter
        )
        self._places = parallel + queue
        self._taken = self._jobs = self._refused = 0
        self._memory = memory_kib
        self._free = memory_kib
        self._freed = threading.Condition()

    async def run(self, job: Callable[[], _T]) -> _T:
        if self._taken >= self._places:
            self._refused += 1
            raise AgentUnavailable(f"the key agent is busy: too many {self._name} are waiting")
        self._taken += 1
        self._jobs += 1
        try:
            future = self._pool.submit(job)
        except RuntimeError:
            self._taken -= 1
            raise AgentUnavailable("the key agent is stopping") from None
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _call(loop, self._leave))
        return await asyncio.wrap_future(future)

    def derive(self, password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        need = min(cost.memory_kib, self._memory)
        with self._freed:
            self._freed.wait_for(lambda: self._free >= need)
            self._free -= need
        try:
            return kdf.derive(password, salt, cost, size)
        finally:
            with self._freed:
                self._free += need
                self._freed.notify_all()

    @property
    def use(self) -> Use:
        return Use(self._taken, self._places, self._jobs, self._refused)

    def stop(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _leave(self) -> None:
        self._taken -= 1

    def _enter(self) -> None:
        _this_thread.pool = self
        if self._polite:
            be_polite()


_this_thread = threading.local()


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed before the thread was done
        loop.call_soon_threadsafe(callback)


def be_polite() -> None:
    """Give this thread a low priority."""
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        nice = min(os.getpriority(os.PRIO_PROCESS, thread) + _NICE, 19)
        os.setpriority(os.PRIO_PROCESS, thread, nice)
