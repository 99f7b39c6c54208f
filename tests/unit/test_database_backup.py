# SPDX-License-Identifier: MIT
"""Backups of keys in a database: by mailseal, and by the database's own program (docs/keys.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal.errors import TemporaryError
from mailseal.keys import opening
from mailseal.keys.public import PublicStore
from tests.lab.clusters import Keys
from tests.lab.databases import Postgresql
from tests.unit.agent_process import CHEAP, AgentProcess, running
from tests.unit.replica.host import Host
from tests.unit.test_move_store import in_database

ALICE, BOB = "alice@example.org", "bob@example.org"


def enroll(agent: AgentProcess, user: str) -> None:
    assert agent.ask("enroll", user=user.encode(), password=b"pw").status == "ok"


def opens(agent: AgentProcess, user: str, password: bytes = b"pw") -> bool:
    return agent.ask("unlock", user=user.encode(), password=password).status == "ok"


def test_a_backup_is_restored_into_an_empty_database(server: Keys, tmp_path: Path) -> None:
    file = str(tmp_path / "backup")
    with running(tmp_path, in_database(server)) as agent:
        enroll(agent, ALICE)
        enroll(agent, BOB)
        assert agent.run("backup", file).stdout == b"2 keyrings saved\n"
        server.empty()
        assert not opens(agent, ALICE)
        done = agent.run("restore", file)
        assert done.returncode == 0 and done.stdout.count(b"restored") == 2, done.stderr
        assert opens(agent, ALICE) and opens(agent, BOB)
        assert opening.rows(server.open())[1].users() == [ALICE, BOB]
        assert agent.run("restore", file).stdout.count(b"no change needed") == 2


def test_a_backup_of_a_database_is_restored_into_files(server: Keys, tmp_path: Path) -> None:
    file = str(tmp_path / "backup")
    with running(tmp_path, in_database(server)) as agent:
        enroll(agent, ALICE)
        assert agent.run("backup", file, ALICE).stdout == b"1 keyrings saved\n"
    (tmp_path / "new").mkdir()
    with running(tmp_path / "new", CHEAP) as agent:
        assert agent.run("restore", file).returncode == 0
        assert opens(agent, ALICE)
        store = PublicStore(str(tmp_path / "new" / "state" / "public"))
        assert store.lookup(ALICE) == opening.rows(server.open())[1].lookup(ALICE)


def dump(keys: Keys, tmp_path: Path) -> str:
    """Returns the path of the dump."""
    server = keys.server
    if isinstance(server, Postgresql):
        path = f"{server.connect['host']}/dump"  # in a folder of PostgreSQL's user
        server.run("pg_dump", "-Fc", "-f", path, *server.options, "postgres")
    else:
        path = str(tmp_path / "dump")
        # Bytes, as with `>`: stamps are not text.
        server.run("mariadb-dump", "--single-transaction", f"--result-file={path}", "mail")
    return path


def load(keys: Keys, path: str) -> None:
    server = keys.server
    if isinstance(server, Postgresql):
        clean = ["--clean", "--if-exists", "--single-transaction", "-d", "postgres"]
        server.run("pg_restore", *clean, *server.options, path)
    else:
        server.sql(f"source {path}")


def test_an_older_dump_of_the_database_is_restored(server: Keys, tmp_path: Path) -> None:
    """As after a crash: users who were enrolled later are missing, and their mail is deferred."""
    file = str(tmp_path / "backup")
    host = Host(server, tmp_path / "public", seconds=1)  # `restore` waits for it
    with running(tmp_path, in_database(server)) as agent:
        enroll(agent, ALICE)
        dumped = dump(server, tmp_path)
        enroll(agent, BOB)
        answer = agent.ask("passwd", user=ALICE.encode(), old=b"pw", new=b"new")
        assert answer.status == "ok"
        host.replica.step()
        assert agent.run("backup", file, BOB).returncode == 0
        agent.stop()
        load(server, dumped)
        agent.start()
        assert opens(agent, ALICE) and not opens(agent, ALICE, b"new")
        assert not opens(agent, BOB)
        host.replica.step()
        assert host.store.lookup(ALICE) is not None
        with pytest.raises(TemporaryError):
            host.store.lookup(BOB)
        assert agent.run("restore", file).returncode == 0
        assert opens(agent, BOB)
        host.replica.step()
        assert host.store.users() == [ALICE, BOB] and host.store.lookup(BOB) is not None
