# SPDX-License-Identifier: MIT
"""The agent's metrics: logins are counted as they are answered, the rest every few seconds.

The keyrings are counted by a thread of low priority, which reads one after the other and rests most
of the time: 100,000 keyrings take about ten minutes and a few percent of a CPU core, and the next
count begins ten times as long afterwards.  Nothing waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter

from mailseal.config import Config
from mailseal.errors import Damaged, MailsealError, NewerFormat, NotEnrolled
from mailseal.login.login_verbs import LoginVerbs
from mailseal.login.protocol import Fields
from mailseal.login.thread_pools import ThreadPools, be_polite
from mailseal.login.verbs import STALE, Answer, Verb
from mailseal.metrics.counters import CounterFile, Part
from mailseal.metrics.table import AGENT, PAIRS, RESULTS, SLOTS

_EVERY = 2.0
_LEAST_REST = 60.0
_RESTS = 10
"""The rest after a count of all keyrings, and after each keyring, in multiples of its time."""

_LEAST_PAUSE = 0.005


def make_counters(config: Config) -> Part | None:
    """The agent's counters; None if metrics are off.  To be called before root is dropped."""
    made = CounterFile.create(config, AGENT)
    return made.part(0) if made is not None else None


class Measures:
    """Counts for one agent."""

    def __init__(self, part: Part, service: LoginVerbs, pools: ThreadPools) -> None:
        self._part = part
        self._vault = service.vault
        self._sessions = service.sessions
        self._indexes = service.indexes
        self._pools = pools
        service.login_verbs["unlock"] = self._counted(service.login_verbs["unlock"])
        self._folders = 0
        self._stop = threading.Event()

    async def run(self) -> None:
        """Count until cancelled."""
        threading.Thread(target=self._count_for_ever, name="count keyrings", daemon=True).start()
        try:
            while True:
                self._look()
                await asyncio.sleep(_EVERY)
        finally:
            self._stop.set()

    def _counted(self, unlock: Verb) -> Verb:
        """The verb for logins, which then also counts its answers."""

        async def measured(fields: Fields) -> Answer:
            began = time.monotonic()
            result = "temporary"
            try:
                status, answer = await unlock(fields)
                result = status
                if answer.get("reason", b"").startswith(STALE.encode()):
                    result = "stale"
                return status, answer
            finally:
                delay = time.monotonic() - began
                result = result if result in RESULTS else "temporary"
                self._part.add("mailseal_unlocks", result)
                self._part.observe("mailseal_unlock_delay_seconds", result, value=delay)

        return measured

    def _look(self) -> None:
        part = self._part
        part.set("mailseal_sessions", to=len(self._sessions))
        for pool, use in self._pools.use().items():
            part.set("mailseal_argon2_waiting", pool, to=use.taken)
            part.set("mailseal_argon2_places", pool, to=use.places)
            part.set("mailseal_argon2_jobs", pool, to=use.jobs)
            part.set("mailseal_argon2_refused", pool, to=use.refused)
        opened = self._indexes.open_folders if self._indexes is not None else 0
        part.set("mailseal_index_folders", "open", to=opened)
        part.set("mailseal_index_folders", "locked", to=max(self._folders - opened, 0))

    def _count_for_ever(self) -> None:
        be_polite()
        while not self._stop.is_set():
            began = time.monotonic()
            # What cannot be counted now, for example while a database is down, is counted later.
            with contextlib.suppress(MailsealError, OSError):
                self._count()
            self._stop.wait(max(_LEAST_REST, _RESTS * (time.monotonic() - began)))

    def _count(self) -> None:
        slots: Counter[str] = Counter()
        pairs: Counter[str] = Counter()
        single = damaged = 0
        for user in self._vault.store.users():
            began = time.monotonic()
            try:
                keyring = self._vault.load(user)
            except (NotEnrolled, NewerFormat):
                continue
            except Damaged:
                damaged += 1
            else:
                slots[_value(len(keyring.slots), SLOTS)] += 1
                pairs[_value(len(keyring.keys), PAIRS)] += 1
                single += not keyring.has_second_way
            if self._stop.wait(max(_LEAST_PAUSE, _RESTS * (time.monotonic() - began))):
                return
        for number in SLOTS:
            self._part.set("mailseal_keyrings", number, to=slots[number])
        for number in PAIRS:
            self._part.set("mailseal_keyrings_by_pairs", number, to=pairs[number])
        self._part.set("mailseal_keyrings_without_recovery", to=single)
        self._part.set("mailseal_keyrings_damaged", to=damaged)
        if self._indexes is not None:
            self._folders = self._indexes.count_folders()
        self._part.set("mailseal_keyrings_counted_timestamp_seconds", to=time.time())


def _value(number: int, values: tuple[str, ...]) -> str:
    return values[min(number, len(values) - 1)]
