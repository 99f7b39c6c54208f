# SPDX-License-Identifier: MIT
"""Reads index folders ahead after they were unlocked, in the background.

CONTRACT
    begin() never blocks and never fails.  Folders are read one after the other; if a folder has
    waited for _LATE seconds, Dovecot has read it by then, and it is left out.
    After end(), nothing reads this folder any more, so no file of it is open when it is locked.
    end() waits for at most one piece (ahead.py), and _PATIENCE seconds if the disk hangs; then
    the folder is locked all the same, and a file that is still open is found by the lock.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time

from mailseal.errors import MailsealError
from mailseal.login.keeper import Keeper

_Job = tuple[concurrent.futures.Future[None], threading.Event]

_LATE, _PATIENCE = 1.0, 1.0
_WAITING = 100
"""Folders that may wait; more are not read ahead."""


class ReadAhead:
    """Used by the event loop only.  `limit`: bytes for each folder."""

    def __init__(self, keeper: Keeper, limit: int, log: logging.Logger) -> None:
        self._keeper = keeper
        self._limit = limit
        self._log = log
        self._told = self._stopped = False
        self._reading: dict[str, _Job] = {}
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="read ahead")

    def begin(self, name: str) -> None:
        """Read what is in this folder."""
        self._reading = {name: job for name, job in self._reading.items() if not job[0].done()}
        if len(self._reading) < _WAITING and not self._stopped:
            ended = threading.Event()
            job = self._thread.submit(self._read, name, time.monotonic(), ended)
            self._reading[name] = (job, ended)

    async def end(self, name: str) -> None:
        """Stop reading this folder."""
        job, ended = self._reading.pop(name, (None, None))
        if job is not None and ended is not None:
            ended.set()
            if not job.cancel():
                await asyncio.wait({asyncio.wrap_future(job)}, timeout=_PATIENCE)

    def stop(self) -> None:
        """Stop reading, even if the process does not answer."""
        self._stopped = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        for _, ended in self._reading.values():
            ended.set()
        self._keeper.close()

    def _read(self, name: str, asked: float, ended: threading.Event) -> None:
        if time.monotonic() - asked > _LATE:
            return
        try:
            for number in range(self._keeper.plan(name, self._limit)):
                if ended.is_set():
                    return
                self._keeper.read(number)
        except (OSError, ValueError, MailsealError) as exc:
            if not self._told and not ended.is_set():
                self._told = True
                self._log.warning("index folders are not read ahead: %s", exc)
