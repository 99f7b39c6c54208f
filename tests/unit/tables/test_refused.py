# SPDX-License-Identifier: MIT
"""Agents and replicas refuse tables of another version, and say what is to be done."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mailseal.errors import TemporaryError
from mailseal.keys.public import PublicStore
from mailseal.keys.sql import schema
from mailseal.keys.sql.database import SCHEMA_VERSION
from tests.lab.process import Server, logged, wait_until
from tests.unit.agent_process import HOOKS, PATIENCE, AgentProcess
from tests.unit.tables.fresh import USER, Fresh

OLDER, NEWER = SCHEMA_VERSION - 1, SCHEMA_VERSION + 1

WRONG = [
    (OLDER, "has tables of an older mailseal", "run `mailseal init --store`"),
    (NEWER, "has tables of a newer mailseal", "upgrade mailseal"),
]
"""The version of the tables, what is said, and what is to be done."""

NONE = ("has no tables for mailseal", "run `mailseal init --store`")


def test_an_agent_does_not_start_with_other_tables(fresh: Fresh, agent: AgentProcess) -> None:
    assert agent.run("init").returncode == 0
    command = [str(HOOKS / "mailseal-agent"), "-c", str(agent.config)]

    def refuses(said: str, hint: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 75
        error = f"mailseal-agent: error: {fresh.open().address} {said}\n"
        assert done.stderr.endswith(f"{error}mailseal-agent: hint: {hint}\n")

    refuses(*NONE)
    schema.migrate(fresh.open())
    before = fresh.content()
    for version, said, hint in reversed(WRONG):
        fresh.set_version(version)
        refuses(said, hint)
        assert (fresh.version, fresh.content()) == (version, before)
    assert agent.run("init", "--store").returncode == 0  # the last hint
    agent.start()
    logged(agent, "listening on", timeout=PATIENCE)


def test_a_running_agent_refuses_other_tables(fresh: Fresh, agent: AgentProcess) -> None:
    """It looks at the version when it connects again."""
    schema.migrate(fresh.open())
    agent.start()
    logged(agent, "listening on", timeout=PATIENCE)  # it is connected
    for version, said, hint in WRONG:
        fresh.set_version(version)
        fresh.cut_connections()
        done = agent.run("enroll", USER, stdin=b"pw\n")
        assert done.returncode == 75
        assert f"mailseal: error: {fresh.open().address} {said}\n".encode() in done.stderr
        assert f"mailseal: hint: {hint}\n".encode() in done.stderr
        assert agent.ask("unlock", user=USER.encode(), password=b"pw").status == "temporary"
        logged(agent, f"{said} ({hint})")
        assert fresh.rows("SELECT name FROM mailseal_keyrings") == []
    fresh.set_version(SCHEMA_VERSION)
    assert agent.run("enroll", USER, stdin=b"pw\n").returncode == 0  # without a restart


def test_a_replica_refuses_other_tables(fresh: Fresh, agent: AgentProcess, tmp_path: Path) -> None:
    assert agent.run("init").returncode == 0
    log = tmp_path / "replica.log"
    command = [str(HOOKS / "mailseal-replica"), "-c", str(agent.config)]
    replica = Server("mailseal-replica", command, str(log))
    store = PublicStore(str(tmp_path / "state" / "public"))

    def logs(text: str) -> None:
        wait_until(lambda: text in log.read_text(), f"{text} is logged", timeout=60)

    def refuses(said: str, hint: str) -> None:
        logs(f"the copy is not renewed: {fresh.open().address} {said} ({hint})\n")
        with pytest.raises(TemporaryError):
            store.lookup(USER)  # never "not enrolled"

    try:
        replica.start(until=[])
        refuses(*NONE)
        replica.stop()
        schema.migrate(fresh.open())
        for version, said, hint in WRONG:
            fresh.set_version(version)
            replica.start(until=[])  # the second time, it runs
            refuses(said, hint)
        fresh.set_version(SCHEMA_VERSION)
        logs("the copy is current again")
        assert store.lookup(USER) is None
    finally:
        replica.stop()


def test_init_refuses_newer_tables(fresh: Fresh, agent: AgentProcess) -> None:
    schema.migrate(fresh.open())
    fresh.set_version(NEWER)
    before = fresh.tables(), fresh.content()
    done = agent.run("init", "--store")
    assert done.returncode == 75
    assert b"has tables of a newer mailseal\nmailseal: hint: upgrade mailseal\n" in done.stderr
    assert (fresh.tables(), fresh.content(), fresh.version) == (*before, NEWER)
