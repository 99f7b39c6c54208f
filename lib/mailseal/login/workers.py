# SPDX-License-Identifier: MIT
"""Threads for Argon2id: so many at a time, so many waiting, and politely.

CONTRACT
    At most `parallel` jobs run; at most `queue` more wait; one more raises
    AgentUnavailable at once.  All derivations together take at most
    `memory_kib`; a slot that was stored with a higher cost than that runs alone.
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
from typing import TypeVar

from mailseal.crypto import kdf
from mailseal.errors import AgentUnavailable

_T = TypeVar("_T")
# Nice 10 has a tenth of the weight of nice 0 in Linux's scheduler.
_NICE = 10


class Workers:
    """A bounded pool of threads, and the memory they may take."""

    def __init__(self, *, parallel: int, queue: int, memory_kib: int) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(
            parallel, thread_name_prefix="argon2id", initializer=_be_polite
        )
        self._places = parallel + queue
        self._taken = 0
        self._memory = memory_kib
        self._free = memory_kib
        self._freed = threading.Condition()

    async def run(self, job: Callable[[], _T]) -> _T:
        """Run a job in a thread.  It goes on even if the caller is cancelled."""
        if self._taken >= self._places:
            raise AgentUnavailable("the key agent is busy: too many logins are waiting")
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
        """kdf.derive, as soon as its memory is free.  For the threads only."""
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
        """Let running jobs end; waiting ones are given up."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _leave(self) -> None:
        self._taken -= 1


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed before the thread was done
        loop.call_soon_threadsafe(callback)


def _be_polite() -> None:
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        nice = min(os.getpriority(os.PRIO_PROCESS, thread) + _NICE, 19)
        os.setpriority(os.PRIO_PROCESS, thread, nice)
