# SPDX-License-Identifier: MIT
"""The agent's verbs in this process, with a stopped clock and a count of derivations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mailseal.crypto import kdf
from mailseal.keys.sql.database import Database
from mailseal.login.admin_verbs import AdminVerbs
from mailseal.login.login_verbs import LoginVerbs
from mailseal.login.policy import Policy
from mailseal.login.protocol import Fields
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from tests.unit.vaults import open_vault

_T = TypeVar("_T")

CHEAP = kdf.PROFILES["insecure-testing"]
USER = b"alice@example.org"
LOG = logging.getLogger("test.service")


def count_jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that threads get from now on, by the name of their pool's method."""
    jobs: list[str] = []
    for name in ("look", "local", "quick", "run", "change", "wait"):
        real = getattr(ThreadPools, name)

        async def counted(
            self: ThreadPools, job: Callable[[], _T], name: str = name, real: Any = real
        ) -> _T:
            jobs.append(name)
            found: _T = await real(self, job)
            return found

        monkeypatch.setattr(ThreadPools, name, counted)
    return jobs


class World:
    """The verbs, with a stopped clock and a count of derivations."""

    def __init__(self, folder: Path, policy: Policy, database: Database | None = None) -> None:
        self.derivations = 0
        self.now = 0.0
        self.pools = ThreadPools(parallel=2, queue=8, memory_kib=1024)
        self.vault = open_vault(folder, database=database, derive=self.derive)
        self.sessions = Sessions(idle=60, absolute=600, clock=lambda: self.now)
        verbs = AdminVerbs(self.vault, self.sessions, self.pools, LOG).verbs
        self.service = LoginVerbs(
            self.vault,
            self.sessions,
            self.pools,
            admin_verbs=verbs,
            version="2.3",
            policy=policy,
            log=LOG,
        )

    def derive(self, password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        self.derivations += 1
        return self.pools.derive(password, salt, cost, size)

    def ask(self, verb: str, **fields: bytes) -> tuple[str, Fields]:
        return asyncio.run(self.service.answer(verb, fields, admin=True))

    def status_of(self, verb: str, **fields: bytes) -> str:
        return self.ask(verb, **fields)[0]

    def login(self, password: bytes, **fields: bytes) -> str:
        return self.status_of(
            "unlock", user=USER, password=password, **{"mechanism": b"PLAIN", **fields}
        )
