# SPDX-License-Identifier: MIT
"""The bound on mail held in memory, for one worker.

Whoever wants bytes reserves them first; if there are not enough free, the
request waits in a queue, first come first served, until bytes come back or
its time is over.  Nothing here blocks, so nothing here can deadlock: the worst
case is that every waiting mail is told 452 after `wait` seconds.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(slots=True, eq=False)
class Request:
    """A wish for `size` bytes.  `answer(granted)` is called once, unless it is withdrawn."""

    size: int
    deadline: float
    answer: Callable[[bool], None]
    withdrawn: bool = False


class Budget:
    """`limit` bytes.  Used by the worker's loop only, so it needs no lock."""

    def __init__(self, limit: int, wait: float) -> None:
        self.limit = limit
        self.used = 0
        self._wait = wait
        self._queue: collections.deque[Request] = collections.deque()

    def reserve(self, size: int) -> bool:
        """Take `size` bytes now, if they are free and nobody waits."""
        if self._queue or self.used + size > self.limit:
            return False
        self.used += size
        return True

    def request(self, size: int, answer: Callable[[bool], None]) -> Request:
        """Wait for `size` bytes."""
        request = Request(size, time.monotonic() + self._wait, answer)
        self._queue.append(request)
        return request

    def release(self, size: int) -> None:
        """Give bytes back.  Those who wait are answered by the next call of serve()."""
        self.used -= size

    def serve(self) -> None:
        """Answer whoever can be answered: granted in order, or out of time.

        When all wait for each other, one is refused at a time, the latest to come,
        and what it gives back serves those before it.
        """
        while self._grant() and self._refuse_one():
            pass

    def _grant(self) -> bool:
        """Grant in order; True if somebody still waits."""
        queue = self._queue
        while queue:
            request = queue[0]
            if request.withdrawn:
                queue.popleft()
            elif self.used + request.size <= self.limit:
                queue.popleft()
                self.used += request.size
                request.answer(True)
            else:
                return True
        return False

    def _refuse_one(self) -> bool:
        now = time.monotonic()
        for request in reversed(self._queue):
            if request.deadline <= now and not request.withdrawn:
                self._queue.remove(request)
                request.answer(False)
                return True
        return False
