# SPDX-License-Identifier: MIT
"""Thread pools for slow work: jobs in one pool do not wait for jobs in another one.

CONTRACT
    run()     a login that opens a keyring: `parallel` at a time, `queue` more wait
    change()  what an administrator asked for and may need Argon2id: one at a time, its own queue;
              and a room of the same size for panels, behind which strangers stand
    quick()   files and no Argon2id: its own threads
    look()    a look-up for a login: its own threads, in front of all others

    A crowd of wrong passwords fills the first room only: status, the commit of
    a change and the change itself go on.  One job more than a room takes raises
    AgentUnavailable at once.  Derivations take at most `memory_kib` in the first
    room, and those of one of its threads in each other room; a slot that was stored
    with a higher cost than that runs alone in its room.
    The threads, and the lanes that Argon2 starts in them, have a lower
    priority than the event loop: it answers logins with a session while wrong
    passwords are being worked on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
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


asked_by_panel: ContextVar[bool] = ContextVar("asked_by_panel", default=False)
"""Whether the request that is being answered came from one of agent.panel_users."""


class Workers:
    """The rooms."""

    def __init__(self, *, parallel: int, queue: int, memory_kib: int) -> None:
        self._logins = _Room("logins", parallel, queue, memory_kib)
        self._changes = _Room("changes", 1, _CHANGES_WAITING, memory_kib // parallel)
        self._panels = _Room("panels", 1, _CHANGES_WAITING, memory_kib // parallel)
        self._quick = _Room("requests", _QUICK_AT_ONCE, _QUICK_WAITING, memory_kib // parallel)
        self._looks = _Room("look-ups", _QUICK_AT_ONCE, _LOOKS_WAITING, 0, polite=False)

    async def run(self, job: Callable[[], _T]) -> _T:
        """Open a keyring for a login.  The job goes on even if the caller is cancelled."""
        return await self._logins.run(job)

    async def change(self, job: Callable[[], _T]) -> _T:
        """Do what an administrator or a panel asked for; it may derive."""
        return await (self._panels if asked_by_panel.get() else self._changes).run(job)

    async def look(self, job: Callable[[], _T]) -> _T:
        """Look something up for a login, at the priority of the event loop: a stat or two."""
        return await self._looks.run(job)

    async def quick(self, job: Callable[[], _T]) -> _T:
        """Do what derives nothing: read, write and remove files."""
        return await self._quick.run(job)

    def derive(self, password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        """kdf.derive, as soon as its memory is free.  For the threads only."""
        room: _Room = _this_thread.room
        return room.derive(password, salt, cost, size)

    def stop(self) -> None:
        """Let running jobs end; waiting ones are given up."""
        for room in (self._logins, self._changes, self._panels, self._quick, self._looks):
            room.stop()


class _Room:
    """A bounded pool of threads, and the memory they may take."""

    def __init__(
        self, name: str, parallel: int, queue: int, memory_kib: int, *, polite: bool = True
    ) -> None:
        self._polite = polite
        self._name = name
        self._pool = concurrent.futures.ThreadPoolExecutor(
            parallel, thread_name_prefix=name, initializer=self._enter
        )
        self._places = parallel + queue
        self._taken = 0
        self._memory = memory_kib
        self._free = memory_kib
        self._freed = threading.Condition()

    async def run(self, job: Callable[[], _T]) -> _T:
        if self._taken >= self._places:
            raise AgentUnavailable(f"the key agent is busy: too many {self._name} are waiting")
        self._taken += 1
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

    def stop(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _leave(self) -> None:
        self._taken -= 1

    def _enter(self) -> None:
        _this_thread.room = self
        if self._polite:
            _be_polite()


_this_thread = threading.local()


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed before the thread was done
        loop.call_soon_threadsafe(callback)


def _be_polite() -> None:
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        nice = min(os.getpriority(os.PRIO_PROCESS, thread) + _NICE, 19)
        os.setpriority(os.PRIO_PROCESS, thread, nice)
