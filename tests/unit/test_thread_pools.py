# SPDX-License-Identifier: MIT
"""Thread pools: limits of threads, queues and memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from mailseal.crypto import kdf
from mailseal.errors import AgentUnavailable, TemporaryError
from mailseal.login.thread_pools import ThreadPools, asked_by_panel


@pytest.fixture
def pools() -> Iterator[ThreadPools]:
    made = ThreadPools(parallel=4, queue=2, memory_kib=256)
    yield made
    made.stop()


def test_results_and_errors_come_back(pools: ThreadPools) -> None:
    assert asyncio.run(pools.run(lambda: 42)) == 42

    def fail() -> None:
        raise TemporaryError("no luck")

    with pytest.raises(TemporaryError, match="no luck"):
        asyncio.run(pools.run(fail))


def test_the_queue_is_limited(pools: ThreadPools) -> None:
    gate = threading.Event()

    async def crowd() -> list[object]:
        jobs = [asyncio.ensure_future(pools.run(lambda: gate.wait(120))) for _ in range(9)]
        await asyncio.sleep(0.1)
        gate.set()
        results: list[object] = list(await asyncio.gather(*jobs, return_exceptions=True))
        assert await pools.run(lambda: "later") == "later", "there is space again"
        return results

    results = asyncio.run(crowd())
    assert results.count(True) == 6
    assert sum(isinstance(result, AgentUnavailable) for result in results) == 3


@pytest.mark.parametrize(("memory_kib", "at_once"), [(64, 4), (128, 2), (256, 1), (1024, 1)])
def test_memory_is_bounded_whatever_a_slot_asks_for(
    pools: ThreadPools, monkeypatch: pytest.MonkeyPatch, memory_kib: int, at_once: int
) -> None:
    running = most = 0
    changed = threading.Condition()

    def derive(*_: object) -> bytes:
        nonlocal running, most
        with changed:
            running += 1
            most = max(most, running)
            changed.notify_all()
            changed.wait_for(lambda: most >= at_once, 60)
        time.sleep(0.05)  # one more could begin
        with changed:
            running -= 1
        return b""

    monkeypatch.setattr(kdf, "derive", derive)
    cost = kdf.Profile("x", memory_kib, 1, 1)

    async def crowd() -> None:
        await asyncio.gather(
            *(pools.run(lambda: pools.derive(b"", b"", cost, 32)) for _ in range(6))
        )

    asyncio.run(crowd())
    assert most == at_once


def test_many_logins_do_not_delay_other_jobs(pools: ThreadPools) -> None:
    """The pool for logins is full: changes and quick jobs are done before any of the logins."""
    gate = threading.Event()
    done: list[str] = []
    cost = kdf.Profile("x", 64, 1, 1)

    def login() -> None:
        gate.wait(120)
        done.append("login")

    async def crowd() -> None:
        logins = [asyncio.ensure_future(pools.run(login)) for _ in range(6)]
        await asyncio.sleep(0)
        with pytest.raises(AgentUnavailable, match="too many logins"):
            await pools.run(login)
        await pools.quick(lambda: done.append("quick"))
        await pools.change(lambda: pools.derive(b"p", bytes(16), cost, 32))
        done.append("change")
        gate.set()
        await asyncio.gather(*logins)

    asyncio.run(crowd())
    assert done == ["quick", "change", *["login"] * 6]


def test_panels_do_not_delay_an_administrator(pools: ThreadPools) -> None:
    """A panel's changes fill their own pool: an administrator's change is done before them."""
    gate = threading.Event()
    done: list[str] = []

    def slow() -> None:
        gate.wait(120)
        done.append("panel")

    async def crowd() -> None:
        asked_by_panel.set(True)
        panels = [asyncio.ensure_future(pools.change(slow)) for _ in range(65)]
        await asyncio.sleep(0)
        with pytest.raises(AgentUnavailable, match="too many panels"):
            await pools.change(slow)
        asked_by_panel.set(False)
        try:
            await asyncio.wait_for(pools.change(lambda: done.append("admin")), 120)
        finally:
            gate.set()
            await asyncio.gather(*panels)

    asyncio.run(crowd())
    assert done == ["admin", *["panel"] * 65]


def test_stopping_refuses_new_work(pools: ThreadPools) -> None:
    pools.stop()
    with pytest.raises(AgentUnavailable, match="stopping"):
        asyncio.run(pools.run(lambda: 1))
