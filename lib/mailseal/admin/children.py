# SPDX-License-Identifier: MIT
"""The processes of a service, each for one user.  Their number on one file system is limited.

    children.start(user, disk, work)        # work() runs in a process of its own
    wait(5)
    for user, status in children.reap():    # the processes that have ended
        ...

CONTRACT
    A process ends when the service ends or is killed, and so do the processes that it has started.
    wait() returns when a process has ended, or after the given time.

FAILURES
    OSError if no process can be started.  If work() fails, the exit status is not 0.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from mailseal.daemon import end_with
from mailseal.errors import EX_OK, EX_TEMPFAIL


class Children:
    """The processes of one service.  Blocks SIGCHLD."""

    def __init__(self, on_one_disk: int) -> None:
        self._on_one_disk = on_one_disk
        self._running: dict[int, tuple[str, int]] = {}
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})

    def has(self, user: str) -> bool:
        """Whether there is a process for this user."""
        return any(name == user for name, _ in self._running.values())

    def has_room(self, disk: int) -> bool:
        """Whether one more process may work on this file system (st_dev)."""
        return sum(device == disk for _, device in self._running.values()) < self._on_one_disk

    def start(self, user: str, disk: int, work: Callable[[], None]) -> None:
        """Run work() in a new process, which keeps the signal handlers of the service."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._running[pid] = (user, disk)
            return
        status = EX_TEMPFAIL
        try:
            end_with(parent, signal.SIGTERM)
            work()
            status = EX_OK
        except BaseException as exc:
            if isinstance(exc, Exception):
                sys.stderr.write(f"mailseal-sealer: {user}: unexpected {type(exc).__name__}\n")
        # Running generators are closed after the except clause only, which ends their processes.
        os._exit(status)

    def reap(self) -> list[tuple[str, int]]:
        """User and exit status of each process that has ended; EX_TEMPFAIL if a signal ended it."""
        ended = []
        for pid, (user, _) in list(self._running.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._running[pid]
                code = os.waitstatus_to_exitcode(status)
                ended.append((user, code if code >= 0 else EX_TEMPFAIL))
        return ended

    def stop(self, patience: float = 10.0) -> None:
        """End all with SIGTERM, and those that do not end with SIGKILL."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._running:
                os.kill(pid, number)
            end = time.monotonic() + patience
            while self._running and time.monotonic() < end:
                self.reap()
                wait(0.1)


def wait(seconds: float) -> None:
    """Return when a process has ended, or after this time."""
    signal.sigtimedwait({signal.SIGCHLD}, seconds)


def disk_of(path: str) -> int:
    """The number (st_dev) of the file system of a path that may not exist yet."""
    while True:
        try:
            return os.stat(path).st_dev
        except OSError:
            path = os.path.dirname(path)
