# SPDX-License-Identifier: MIT
"""The counters of mailseal-lmtp's processes: each worker has a part of the file of its own.

The supervisor's own part is number 0.  A worker's part is used again when the worker has ended.
"""

from __future__ import annotations

from mailseal.config import Config
from mailseal.delivery.lmtp.syntax import Reply
from mailseal.metrics.counters import CounterFile, Part
from mailseal.metrics.table import DELIVERY, reply_of


class Outcomes:
    """The counters of one worker.  Used by its event loop only."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def outcome(self, action: str, reply: Reply, delay: float | None = None) -> None:
        """Count one recipient's mail."""
        self._part.add("mailseal_deliveries", action, reply_of(reply.code, reply.enhanced))
        if delay is not None:
            # It is below 0 if the clock was set back.
            self._part.observe("mailseal_delivery_delay_seconds", action, value=max(delay, 0.0))


class Counting:
    """Used by the supervisor.  If metrics are off, it does nothing."""

    def __init__(self, config: Config) -> None:
        """To be made before root is dropped."""
        self._file = CounterFile.create(config, DELIVERY)
        self._own = self._file.part(0) if self._file is not None else None
        self._numbers: dict[int, int] = {}

    def reserve(self) -> int:
        """The number of a part for a new worker."""
        used = self._numbers.values()
        number = next(n for n in range(1, len(used) + 2) if n not in used)
        if self._file is not None:
            self._file.grow(number)
        return number

    def outcomes(self, number: int) -> Outcomes | None:
        """The counters of this process, a worker."""
        return Outcomes(self._file.part(number)) if self._file is not None else None

    def started(self, pid: int, number: int) -> None:
        """A worker has this part."""
        self._numbers[pid] = number
        self._tell()

    def ended(self, pid: int, *, died: bool = False) -> None:
        """A worker has ended."""
        if self._numbers.pop(pid, None) is None:
            return
        self._tell()
        if died and self._own is not None:
            self._own.add("mailseal_lmtp_worker_deaths")

    def _tell(self) -> None:
        if self._own is not None:
            self._own.set("mailseal_lmtp_workers", to=len(self._numbers))
