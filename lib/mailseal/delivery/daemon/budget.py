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
"""Bytes of each client's own room, at most."""


@dataclasses.dataclass(slots=True, eq=False)
class Hold:
    """What one mail may hold, in bytes."""

    size: int = 0
    largest: bool = False
    """Whether it has the room of the largest mail."""


@dataclasses.dataclass(slots=True, eq=False)
class Request:
    """A mail that waits for `size` bytes more.  `answer(granted)` is called once, if at all."""

    hold: Hold
    size: int
    deadline: float
    answer: Callable[[bool], None]


class Budget:
    """`limit` bytes for `clients` connections; used by the worker's loop only, without a lock.

    `largest` is what one mail can hold at most, `wait` is in seconds.
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
        """Whether a mail of that size, if announced truly, would find room now."""
        room = self.own if self._growing else self.own + self._free
        return size <= room or (self._in_largest is None and not self._growing)

    def begin(self) -> Hold:
        """A mail begins, with the client's own room."""
        return Hold(self.own)

    def grow(self, hold: Hold, size: int) -> bool:
        """Take `size` bytes more, if there is room and no other mail waits for it."""
        return (hold.largest or not self._growing) and self._take(hold, size)

    def release(self, hold: Hold) -> None:
        """The mail is over.  Those who wait are answered by the next call of serve()."""
        if hold.largest:
            self._in_largest = None
        else:
            self._free += self._beyond(hold.size)
        hold.size, hold.largest = 0, False

    def wait_to_grow(self, hold: Hold, size: int, answer: Callable[[bool], None]) -> Request:
        """Wait for `size` bytes more for a mail under way."""
        return self._queue(self._growing, hold, size, answer)

    def wait_to_begin(self, size: int, answer: Callable[[bool], None]) -> Request:
        """Wait until a mail of that size would find room.  Nothing is taken for it yet."""
        return self._queue(self._beginning, Hold(), size, answer)

    def withdraw(self, request: Request) -> None:
        """Nobody waits for this answer any more."""
        for queue in (self._growing, self._beginning):
            if request in queue:
                queue.remove(request)

    def serve(self) -> None:
        """Answer whoever can be answered: granted, or out of time."""
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
        """What a mail of that size has beyond the client's own room."""
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
