# SPDX-License-Identifier: MIT
"""The primary changes, or servers hang: no acknowledged change is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailseal import database_address
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import MailsealError, StoreUnreachable
from mailseal.keys import opening
from mailseal.keys.sql import database as database_module
from mailseal.keys.sql.database import Database
from mailseal.keys.stores import KeyStores
from tests.lab import clusters
from tests.lab.clusters import Keys, Pair
from tests.lab.process import children, suspend, wait_until
from tests.listener import serve, unix_listener
from tests.unit.replica.host import Host
from tests.unit.store_contract import make

in_soak = pytest.mark.skipif(
    not os.environ.get("SOAK_HOSTS"), reason="make soak-hosts runs it: it takes long"
)


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=in_soak)])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    start = {"postgresql": clusters.postgresql_pair, "mariadb": clusters.mariadb_pair}
    with clusters.folder() as folder, start[request.param](folder) as found:
        yield found


def test_a_failover_under_load_loses_nothing_that_was_acknowledged(
    pair: Pair, tmp_path: Path
) -> None:
    acknowledged: dict[str, int] = {}
    failures = 0
    end = threading.Event()
    keyring = make()

    def change(number: int) -> None:
        nonlocal failures
        stores = KeyStores(*opening.rows(pair.open()))
        n = 0
        while not end.is_set():
            n += 1
            user = f"user{number}.{n}@example.org"
            mine = make(user) if n % 10 == 0 else None
            try:
                if mine is not None:
                    with stores.transaction(user) as transaction:
                        transaction.create(mine)
                        transaction.save(mine, before=mine)
                    acknowledged[user] = 1
                else:
                    stores.public.publish(user, keyring.current)
                    acknowledged[user] = 0
            except MailsealError:
                failures += 1
                time.sleep(0.02)

    host = Host(pair, tmp_path / "public")

    def copy() -> None:
        while not end.is_set():
            with contextlib.suppress(MailsealError):
                host.replica.step()

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    threads.append(threading.Thread(target=copy))
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(acknowledged) > 40, "the load runs", timeout=180)
        pair.first.stop(signal.SIGKILL)
        before, failures = len(acknowledged), 0
        wait_until(lambda: failures, "changes fail", timeout=180)
        pair.second.promote()
        wait_until(lambda: len(acknowledged) > before + 40, "the load continues", timeout=180)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    keyrings, public = opening.rows(pair.open())
    for user, revision in acknowledged.items():
        assert public.lookup(user) is not None
        if revision:
            assert keyrings.load(user).revision == revision
    host.replica.step()
    assert set(host.store.users()) >= set(acknowledged)


@in_soak
def test_a_primary_that_becomes_read_only_is_no_longer_used(pair: Pair) -> None:
    """The connection is not broken; the server refuses to write."""
    _, public = opening.rows(pair.open())
    key = PrivateKey.generate().public
    public.publish("alice", key)
    pair.second.promote()
    pair.first.demote()
    public.publish("bob", key)
    assert (pair.count(pair.first), pair.count(pair.second)) == (1, 2)


@in_soak
def test_a_commit_that_no_standby_confirms_is_not_acknowledged(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_PATIENCE", 1.0)
    _, public = opening.rows(pair.open())
    pair.second.stop(signal.SIGKILL)
    with pytest.raises(StoreUnreachable):
        public.publish("alice", PrivateKey.generate().public)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_server_that_does_not_answer_is_no_longer_used(
    server: Keys, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It hangs in the middle of a session, and later answers again."""
    monkeypatch.setattr(database_module, "_PATIENCE", 1.0)
    database = server.open()
    keyrings, _ = opening.rows(database)
    assert keyrings.users() == []
    if how == "killed":
        server.server.stop(signal.SIGKILL)
    else:
        _for_all(server, suspend)
    try:
        with pytest.raises(StoreUnreachable):
            keyrings.users()
        with pytest.raises(StoreUnreachable):
            keyrings.create(make())
    finally:
        _for_all(server, _resume) if how == "stopped" else server.server.start()
    wait_until(lambda: _answers(database), "the database answers again")
    keyrings.create(make())


def _answers(database: Database) -> bool:
    with contextlib.suppress(StoreUnreachable):
        return bool(database.row("SELECT 1"))
    return False


def _for_all(server: Keys, do: Callable[[int], None]) -> None:
    """For the server and its children, which are in sessions of their own in PostgreSQL."""
    leader = server.server._server.pid
    do(leader)
    for pid in children(leader):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            do(pid)


def _resume(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def test_nothing_is_written_after_a_lock_was_lost_with_its_connection(server: Keys) -> None:
    database = server.open()
    keyrings, _ = opening.rows(database)
    first = make()
    keyrings.create(first)
    with keyrings.locked(first.user):
        database.close()
        with pytest.raises(StoreUnreachable):
            keyrings.save(first, before=first)
    assert keyrings.load(first.user) == first
    assert keyrings.save(first, before=first).revision == 1


@pytest.mark.parametrize("does", ["closes", "is silent"])
def test_a_host_that_accepts_and_then_does_nothing_is_passed_over(
    postgresql: Keys, tmp_path: Path, does: str
) -> None:
    """In front of a primary that is down: a proxy, or a machine that hangs."""
    dead = tmp_path / ".s.PGSQL.5432"

    def client(connection: socket.socket) -> None:
        if does == "is silent":
            connection.settimeout(30)
            while connection.recv(1024):
                pass

    serve(unix_listener(str(dead)), client)
    alive = postgresql.server.connect["host"]
    url = f"postgresql://postgres@/postgres?host={tmp_path},{alive}"
    assert Database(database_address.parse(url)).row("SELECT 1") == (1,)
