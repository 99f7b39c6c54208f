# SPDX-License-Identifier: MIT
"""The memory limit for mail, in one worker.

Memory is taken when bytes are about to be read, not when SIZE= announces them: a client that
announces a large mail and does not send it takes no memory.  There are three parts:

    own       for the first bytes of each client's mail.  It is reserved for the maximum
              number of connections, so a small mail never waits
    shared    for larger mails, first come, first served
    largest   for one mail of the largest permitted size.  The first mail that finds
              the shared part full uses this part, and can always be finished

If there is no free memory, the mail waits.  When memory becomes free, mails in progress come
before new ones.  After `wait` seconds a waiting mail is refused, the newest one first, because
its memory may be enough for the others.  Nothing here blocks.  The mail in the third part never
waits, so there is no deadlock.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

OWN = 128 * 1024
"""Largest size in bytes of each client's own part."""


@dataclasses.dataclass(slots=True, eq=False)
class Hold:
    """The memory of one mail, in bytes."""

    size: int = 0
    largest: bool = False
    """Whether it uses the part for the largest mail."""


@dataclasses.dataclass(slots=True, eq=False)
class Request:
    """A mail that waits for `size` more bytes.  `answer(granted)` is called at most once."""

    hold: Hold
    size: int
    deadline: float
    answer: Callable[[bool], None]


class Budget:
    """`limit` bytes for `clients` connections; used by the worker's loop only, without a lock.

    `largest`: the largest size of one mail; `wait`: in seconds.
    """

    def __init__(self, limit: int, largest: int, clients: int, wait: float) -> None:
        spare = max(limit - largest, 0)
        self.own = min(OWN, spare // 2 // clients)
        self._free = spare - self.own * clients
        self._largest = largest
        self._in_largest: Hold | None = None
        self._wait = wait
        self._growing: list[Request] = []
        self._beginning: list[Request] = []

    def fits(self, size: int) -> bool:
        """Whether there is memory for a mail of this size now."""
        room = self.own if self._growing else self.own + self._free
        return size <= room or (self._in_largest is None and not self._growing)

    def begin(self) -> Hold:
        """Begin a mail, with the client's own part."""
        return Hold(self.own)

    def grow(self, hold: Hold, size: int) -> bool:
        """Take `size` more bytes, if they are free and no other mail waits for them."""
        return (hold.largest or not self._growing) and self._take(hold, size)

    def release(self, hold: Hold) -> None:
        """End a mail.  The next call of serve() answers those who wait."""
        if hold.largest:
            self._in_largest = None
        else:
            self._free += self._beyond(hold.size)
        hold.size, hold.largest = 0, False

    def wait_to_grow(self, hold: Hold, size: int, answer: Callable[[bool], None]) -> Request:
        """Wait for `size` more bytes for a mail in progress."""
        return self._queue(self._growing, hold, size, answer)

    def wait_to_begin(self, size: int, answer: Callable[[bool], None]) -> Request:
        """Wait until there is memory for a mail of this size.  No memory is taken yet."""
        return self._queue(self._beginning, Hold(), size, answer)

    def withdraw(self, request: Request) -> None:
        """Cancel a request: its answer is not needed any more."""
        for queue in (self._growing, self._beginning):
            if request in queue:
                queue.remove(request)

    def serve(self) -> None:
        """Answer requests that can be granted, or have timed out."""
        if self._growing or self._beginning:
            self._grant()
            while self._refuse_one():
                self._grant()

    def _queue(
        self, queue: list[Request], hold: Hold, size: int, answer: Callable[[bool], None]
    ) -> Request:
        request = Request(hold, size, time.monotonic() + self._wait, answer)
        queue.append(request)
        return request

    def _beyond(self, size: int) -> int:
        """The memory for a mail of this size, without the client's own part."""
        return max(size - self.own, 0)

    def _take(self, hold: Hold, size: int) -> bool:
        after = hold.size + size
        more = self._beyond(after) - self._beyond(hold.size)
        if not hold.largest and more <= self._free:
            self._free -= more
        elif after > self._largest or self._in_largest not in (None, hold):
            return False
        elif not hold.largest:
            self._in_largest, hold.largest = hold, True
            self._free += self._beyond(hold.size)
        hold.size = after
        return True

    def _grant(self) -> None:
        while self._growing and self._take(self._growing[0].hold, self._growing[0].size):
            self._growing.pop(0).answer(True)
        for request in list(self._beginning):
            if request in self._beginning and self.fits(request.size):
                self._beginning.remove(request)
                request.answer(True)

    def _refuse_one(self) -> bool:
        now = time.monotonic()
        for queue in (self._beginning, self._growing):
            for request in reversed(queue):
                if request.deadline <= now:
                    queue.remove(request)
                    request.answer(False)
                    return True
        return False
