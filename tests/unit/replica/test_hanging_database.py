# SPDX-License-Identifier: MIT
"""Logins of an agent whose database hangs or whose copy is older, and the indexer's questions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailseal import config, database_address
from mailseal.crypto import kdf
from mailseal.errors import TemporaryError
from mailseal.keys.public import PublicStore
from mailseal.keys.sql.database import Database
from mailseal.keys.sql.replica import Replica
from mailseal.login import stored
from mailseal.login.indexer import Indexer
from mailseal.login.indexes import Indexes
from mailseal.login.policy import Policy
from mailseal.login.protocol import Fields
from tests.lab import clusters, proxy
from tests.lab.clusters import Keys
from tests.lab.process import Server, suspend
from tests.unit.replica.host import LOG
from tests.unit.verbs.world import USER, World, count_jobs

KEY = "mail_crypt_global_public_key"
LONG = 300.0
LOGIN: Fields = {"user": USER, "password": b"pw", "behind": b"1"}
KEYLESS: Fields = {**LOGIN, "service": b"submission"}


class Site(World):
    """The verbs with a database, and the host's replica; alice is enrolled and has a session."""

    def __init__(self, folder: Path, way: Server, database: Database, keys: Keys) -> None:
        super().__init__(folder, Policy(keyless=frozenset({"submission"})), database)
        self.way, self.keys = way, keys
        self.replica = Replica(
            keys.open(), PublicStore(str(folder / "public")), name="mx", seconds=600, log=LOG
        )
        self.during: Callable[[], object] = lambda: None
        assert self.status_of("enroll", user=USER, password=b"pw") == "ok"
        self.replica.step()
        assert self.login(b"pw", behind=b"1") == "ok"

    def derive(self, password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        self.during()
        return super().derive(password, salt, cost, size)

    def rotate(self) -> None:
        """Make a new key pair while no host has a row, so that it waits for none."""
        self.keys.server.sql("DELETE FROM mailseal_hosts")
        assert self.status_of("rotate", user=USER, password=b"pw") == "ok"

    async def answer(self, verb: str, fields: Fields) -> Fields:
        status, found = await self.service.answer(verb, fields, admin=True)
        assert status == "ok", found
        return found

    async def fill(self) -> list[asyncio.Task[Any]]:
        """Let the database hang, while all threads for lookups wait for its answer."""
        both = threading.Barrier(2)
        await asyncio.gather(*(self.pools.look(lambda: self._connected(both)) for _ in "12"))
        suspend(self.way.pid)
        newcomer: Fields = {"user": b"new@example.org", "password": b"pw", "behind": b"1"}
        ask = self.service.answer
        waiting = [asyncio.create_task(ask("unlock", newcomer, admin=True)) for _ in range(4)]
        async with asyncio.timeout(60):
            while self.pools._looks.use.taken < len(waiting):
                await asyncio.sleep(0.01)
        return waiting

    def _connected(self, both: threading.Barrier) -> None:
        self.vault.revision("nobody@example.org")
        both.wait(60)


@pytest.fixture
def site(postgresql: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Its questions to the database hang for as long as the test wants."""
    monkeypatch.setattr("mailseal.keys.sql.database._PATIENCE", LONG)
    monkeypatch.setattr(stored, "_PATIENCE", LONG)
    postgresql.empty()
    with clusters.folder() as folder, contextlib.ExitStack() as last_first:
        name = "/.s.PGSQL.5432"
        pair = (folder + name, postgresql.server.connect["host"] + name)
        way = Server("proxy", [sys.executable, proxy.__file__, *pair], f"{folder}/log")
        way.start(until=pair[:1])
        last_first.callback(way.stop)
        url = f"{postgresql.url.partition('?')[0]}?host={folder}"
        made = Site(tmp_path, way, Database(database_address.parse(url)), postgresql)
        last_first.callback(made.pools.stop)
        last_first.callback(os.kill, way.pid, signal.SIGCONT)
        yield made


def test_a_login_with_a_session_does_not_wait_for_the_database(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads that ask it wait, and others wait for these."""

    async def scenario() -> None:
        before = await site.answer("unlock", LOGIN)
        waiting = await site.fill()
        monkeypatch.setattr(stored, "_PATIENCE", 0.1)
        async with asyncio.timeout(60):
            during = await site.answer("unlock", LOGIN)
            # It has waited in vain; so others wait for a shorter time.
            monkeypatch.setattr(stored, "_PATIENCE", LONG)
            monkeypatch.setattr(stored, "_LESS", 0.1)
            keyless = [await site.answer("unlock", KEYLESS), await site.answer("lookup", LOGIN)]
        assert not [task for task in waiting if task.done()]
        assert [answer[KEY] for answer in (during, *keyless)] == [before[KEY]] * 3
        assert f"{KEY[:-10]}private_key" in during
        monkeypatch.setattr(stored, "_LESS", LONG)
        site.way.signal(signal.SIGCONT)
        for task in waiting:
            assert (await task)[0] == "unknown", "who has no session waits for the answer"

    asyncio.run(scenario())
    assert site.service.stored._slow_until == 0.0
    site.rotate()
    after = asyncio.run(site.answer("unlock", LOGIN))
    assert f"{KEY[:-10]}private_key2" in after, "logins are compared with the database again"


def test_a_login_with_a_session_is_one_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = count_jobs(monkeypatch)
    assert site.login(b"pw", behind=b"1") == "ok"
    assert jobs == ["look"]


def test_a_first_login_gets_the_pair_of_its_end(site: Site) -> None:
    """The host gets a new pair while the login waits for Argon2id.

    With the pair from its start, Dovecot's userdb would refuse it.
    """
    old = asyncio.run(site.answer("unlock", LOGIN))[KEY]
    site.rotate()
    site.sessions.end_all()
    site.during = site.replica.step
    new = asyncio.run(site.answer("unlock", LOGIN))[KEY]
    copied = site.vault.copy.key(USER.decode())
    assert copied is not None and new.decode() == copied.dovecot_string() != old.decode()


class Unlocked(Indexes):
    """An index folder that is unlocked."""

    def fields_if_open(self, user: str) -> list[tuple[str, str]]:
        return [("index", user)]


@pytest.fixture
def indexer(site: Site, tmp_path: Path) -> Iterator[Callable[[], dict[str, str]]]:
    """What the agent adds to the answer of Dovecot's userdb."""
    asked = "service=indexer-worker"
    options = tmp_path / "mailseal.yaml"
    options.write_text("{}\n")

    async def nobody() -> set[str]:
        return set()

    with socket.socket() as listener:
        indexes = Unlocked(None, None, nobody, lock_after=60, log=LOG)
        made = Indexer(config.load(str(options)), listener, site.service, indexes)

        def ask() -> dict[str, str]:
            fields = asyncio.run(made._completed(USER.decode(), ["home=/x"], [asked]))
            return dict(field.split("=", 1) for field in fields)

        yield ask


def test_the_indexer_gets_the_fields_of_a_login(
    site: Site, indexer: Callable[[], dict[str, str]]
) -> None:
    """Also on a host whose copy is older than the keyring."""
    site.rotate()
    for newer in (False, True):
        if newer:
            site.replica.step()
        login = asyncio.run(site.answer("unlock", LOGIN))
        found = indexer()
        assert found[KEY] == login[KEY].decode() and found["home"] == "/x"
        assert f"{KEY[:-10]}private_key2" in found, "both pairs are there for reading"


def test_the_indexer_gets_nothing_of_a_session_that_another_host_has_ended(
    site: Site, indexer: Callable[[], dict[str, str]]
) -> None:
    assert KEY in indexer()
    site.rotate()
    with pytest.raises(TemporaryError, match="no session"):
        indexer()
    site.keys.empty()
    with pytest.raises(TemporaryError, match="in this host's copy"):
        indexer()
