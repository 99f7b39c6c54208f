# SPDX-License-Identifier: MIT
"""The metrics of mailseal-sealer: users and mails by the state of the work on existing mail.

go_on() is called every few seconds.  It reads the records of some users and returns; after the last
user the sums are written.  So 100,000 users take a few minutes, and the sealer does not wait.

FAILURES
    None: if the users cannot be listed, they are counted later.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from mailseal.admin.seal_jobs import DONE, OFF, SEALING, UNSEALING, WAITING, Job
from mailseal.config import Config
from mailseal.errors import MailsealError
from mailseal.metrics.counters import CounterFile, Part
from mailseal.metrics.table import PHASES, SEALER

_AT_ONCE = 0.05
"""Seconds of work in one call."""

_STATES = {WAITING: "waiting", SEALING: "sealing", DONE: "done", UNSEALING: "unsealing"}


class SealerCounts:
    """Counts for one sealer.

    `users` lists all enrolled users; `job` returns a user's record, or None if there is no work.
    """

    def __init__(
        self, part: Part, users: Callable[[], list[str]], job: Callable[[str], Job | None]
    ) -> None:
        self._part = part
        self._users = users
        self._job = job
        self._under_way: Iterator[None] = iter(())

    def go_on(self) -> None:
        """Continue to count, or begin again."""
        end = time.monotonic() + _AT_ONCE
        while time.monotonic() < end:
            try:
                next(self._under_way)
            except StopIteration:
                self._under_way = self._count()
                return
            except MailsealError:
                self._under_way = iter(())
                return

    def _count(self) -> Iterator[None]:
        users: Counter[str] = Counter()
        mails: Counter[str] = Counter()
        for user in self._users():
            job = self._job(user)
            if job is not None and job.phase != OFF:
                postponed = job.phase == WAITING and job.problem
                users["postponed" if postponed else _STATES.get(job.phase, "waiting")] += 1
                mails["done"] += job.done
                mails["left"] += max(job.total - job.done, 0)
                mails["impossible"] += job.left
            yield
        for state in PHASES:
            self._part.set("mailseal_conversion_users", state, to=users[state])
        for state in ("done", "left", "impossible"):
            self._part.set("mailseal_conversion_mails", state, to=mails[state])
        self._part.set("mailseal_conversion_counted_timestamp_seconds", to=time.time())


def make(
    config: Config, users: Callable[[], list[str]], job: Callable[[str], Job | None]
) -> SealerCounts | None:
    """None if metrics are off."""
    made = CounterFile.create(config, SEALER)
    return SealerCounts(made.part(0), users, job) if made is not None else None
