# SPDX-License-Identifier: MIT
"""An upgrade of the tables keeps everything, also if it is interrupted, or runs on two hosts.

There is one version of the tables so far.  The next one has one more step: next_version.py.
"""

from __future__ import annotations

import threading

import pytest

from mailseal.errors import NewerFormat, StoreUnreachable
from mailseal.keys import opening
from mailseal.keys.sql import schema
from mailseal.keys.sql.database import SCHEMA_VERSION, Database
from mailseal.keys.stores import KeyStores
from tests.lab.clusters import Keys
from tests.lab.process import wait_until
from tests.unit.agent_process import AgentProcess
from tests.unit.store_contract import COST, make
from tests.unit.tables import next_version as code
from tests.unit.tables.fresh import USER, Fresh, Host, NextVersion


def with_a_user(fresh: Fresh) -> None:
    """Make the tables of this version, with a user whose password has changed."""
    database = fresh.open()
    assert schema.migrate(database) == 0
    with KeyStores(*opening.rows(database)).transaction(USER) as change:
        first = make(USER, b"first")
        change.create(first)
        opened = first.unlock(b"first")
        opened.set_login(b"pw", COST, now=2)
        change.save(opened.keyring, before=first)


def opens(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the next version opens the user's keyring, and finds its public key."""
    with monkeypatch.context() as patch:
        code.install(patch.setattr)
        keyrings, public = opening.rows(fresh.open(any_schema=False))
        opened = keyrings.load(USER).unlock(b"pw")
        try:
            return public.lookup(USER) == opened.keyring.current
        finally:
            opened.wipe()


def test_an_upgrade_keeps_everything(
    fresh: Fresh,
    agent: AgentProcess,
    next_version: NextVersion,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_a_user(fresh)
    before = fresh.content()
    assert b": tables there already, " in agent.run("init", "--store").stdout
    assert ": tables upgraded, " in next_version.run().stdout
    assert (fresh.version, fresh.content()) == (code.VERSION, before)
    assert fresh.rows("SELECT made_by FROM mailseal_keyrings") == [("version 1",)]
    assert opens(fresh, monkeypatch)
    assert ": tables there already, " in next_version.run().stdout


@pytest.mark.parametrize("number", [3, 4, 5])
def test_an_upgrade_that_was_killed_is_finished_by_the_next_one(
    fresh: Fresh, next_version: NextVersion, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Killed before the second statement of the step, before the third, before the version."""
    with_a_user(fresh)
    before = fresh.content()
    next_version.run(killed_at=number)
    assert (fresh.version, fresh.content()) == (SCHEMA_VERSION, before)
    assert ": tables upgraded, " in next_version.run().stdout
    assert (fresh.version, fresh.content()) == (code.VERSION, before)
    assert fresh.rows("SELECT made_by FROM mailseal_keyrings") == [("version 1",)]
    assert fresh.rows("SELECT name FROM mailseal_more") == []
    assert opens(fresh, monkeypatch)


def test_an_upgrade_is_finished_after_a_crash_of_the_server(
    fresh: Fresh, server: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_a_user(fresh)
    before = fresh.content()
    database = fresh.open()
    real = database.statement

    def statement(text: str, *values: object) -> int:
        if "mailseal_more" in text:
            server.power_cut()
        return real(text, *values)

    code.install(monkeypatch.setattr)
    with monkeypatch.context() as patch:
        patch.setattr(database, "statement", statement)
        with pytest.raises(StoreUnreachable):
            schema.migrate(database)
    assert schema.migrate(database) == SCHEMA_VERSION
    assert (fresh.version, fresh.content()) == (code.VERSION, before)
    assert opens(fresh, monkeypatch)


class Cut(BaseException):
    """The process ends here."""


def cut_at(database: Database, number: int, patch: pytest.MonkeyPatch) -> None:
    """Let this statement that changes something raise Cut."""
    real, sent = database.statement, 0

    def statement(text: str, *values: object) -> int:
        nonlocal sent
        sent += 1
        if sent == number:
            raise Cut
        return real(text, *values)

    patch.setattr(database, "statement", statement)


def test_tables_are_complete_after_any_interruption(
    server: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From nothing to the next version, interrupted before each statement in turn."""
    code.install(monkeypatch.setattr)
    fresh = Fresh(server)
    database = fresh.open()
    assert schema.migrate(database) == 0
    complete, number, ended = fresh.tables(), 0, False
    while not ended:
        number += 1
        database.close()
        fresh.remove()
        fresh = Fresh(server)
        with monkeypatch.context() as patch:
            cut_at(database, number, patch)
            try:
                schema.migrate(database)
                ended = True
            except Cut:
                database.close()  # as by the kernel
        schema.migrate(database)
        assert (fresh.version, fresh.tables()) == (code.VERSION, complete), number
        assert fresh.rows("SELECT one, last_change, moved_to FROM mailseal_state") == [(1, 0, "")]
    assert number > 10
    database.close()
    fresh.remove()


@pytest.mark.parametrize(
    ("before", "pause"), [(0, "mailseal_hosts"), (SCHEMA_VERSION, "mailseal_more")]
)
def test_of_two_hosts_one_waits_for_the_other(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch, before: int, pause: str
) -> None:
    if before:
        schema.migrate(fresh.open())
    code.install(monkeypatch.setattr)
    one, two = Host(fresh), Host(fresh)
    one.pause_before(pause)
    try:
        one.thread.start()
        assert one.reached.wait(60)
        two.thread.start()
        wait_until(
            lambda: fresh.has_a_waiting_host() or not two.thread.is_alive(), "two waits", timeout=60
        )
        assert two.thread.is_alive() and not two.made
    finally:
        one.go_on.set()
    one.thread.join()
    two.thread.join()
    assert (one.made, two.made, fresh.version) == ([before], [code.VERSION], code.VERSION)
    assert len(fresh.rows("SELECT one FROM mailseal_state")) == 1


def test_an_older_host_does_not_set_the_version_back(
    fresh: Fresh, next_version: NextVersion
) -> None:
    """It is about to write its version when the next version begins."""
    older = Host(fresh)
    older.pause_before("UPDATE mailseal_schema")
    newer = threading.Thread(target=next_version.run, daemon=True)
    try:
        older.thread.start()
        assert older.reached.wait(60)
        newer.start()
        wait_until(
            lambda: fresh.has_a_waiting_host() or not newer.is_alive(), "it waits", timeout=60
        )
    finally:
        older.go_on.set()
    older.thread.join()
    newer.join()
    assert older.made == [0] and fresh.version == code.VERSION
    with pytest.raises(NewerFormat, match="tables of a newer mailseal"):
        schema.migrate(fresh.open())
