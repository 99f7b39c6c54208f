# SPDX-License-Identifier: MIT
"""A database without tables, and hosts that make them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

from mailseal import database_address
from mailseal.errors import NewerFormat, TemporaryError
from mailseal.keys.sql import schema
from mailseal.keys.sql.database import Database
from mailseal.keys.sql.transaction import Row
from tests.lab.clusters import Keys
from tests.lab.databases import Postgresql
from tests.lab.place import REPOSITORY, LabError
from tests.lab.process import wait_until
from tests.unit.agent_process import AgentProcess

USER = "alice@example.org"

_COLUMNS = {
    "keyrings": "name, revision, body, change_number, stamp",
    "public_keys": "name, state, body, change_number",
    "changes": "number, stamp, name",
    "state": "one, last_change, stamp, locked, moved_to",
}


class Fresh:
    """A database of its own on the server."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.url = keys.url.replace("/postgres?", "/upgrade?").replace("/mail?", "/upgrade?")
        self._reader = self.open()
        self._is_postgresql = isinstance(keys.server, Postgresql)
        self.remove()
        self._admin("CREATE DATABASE upgrade")

    def open(self, *, any_schema: bool = True) -> Database:
        return Database(database_address.parse(self.url), any_schema=any_schema)

    def remove(self) -> None:
        self._reader.close()
        self._admin("DROP DATABASE IF EXISTS upgrade" + " WITH (FORCE)" * self._is_postgresql)

    def _admin(self, text: str) -> None:
        server = self._keys.server
        if isinstance(server, Postgresql):
            server.sql(text)
        else:
            server.sql(text, "")

    def rows(self, text: str) -> list[Row]:
        return self._reader.rows(text)

    @property
    def version(self) -> int:
        ((found,),) = self.rows("SELECT version FROM mailseal_schema")
        return int(found)

    def cut_connections(self) -> None:
        """End all connections to the database."""
        server = self._keys.server
        if isinstance(server, Postgresql):
            which = "pg_stat_activity WHERE datname = 'upgrade'"
            server.sql(f"SELECT pg_terminate_backend(pid, 60000) FROM {which}")
        else:
            which = "SELECT id FROM information_schema.processlist WHERE db = 'upgrade'"
            found = set(server.sql(which).split())
            for number in found:
                with contextlib.suppress(LabError):  # it has ended
                    server.sql(f"KILL {number}")
            wait_until(lambda: not found & set(server.sql(which).split()), "they have ended")
        self._reader.close()

    def set_version(self, version: int) -> None:
        assert self._reader.statement("UPDATE mailseal_schema SET version = %s", version) == 1

    def tables(self) -> list[Row]:
        """All columns and indexes."""
        if self._is_postgresql:
            where = "table_schema = current_schema()"
            indexes = "SELECT tablename, indexdef FROM pg_indexes WHERE tablename LIKE 'mailseal%%'"
        else:
            where = "table_schema = database()"
            indexes = (
                "SELECT table_name, index_name, column_name, seq_in_index "
                f"FROM information_schema.statistics WHERE {where}"
            )
        columns = (
            "SELECT table_name, column_name, data_type, is_nullable "
            f"FROM information_schema.columns WHERE {where}"
        )
        return sorted(self.rows(columns)) + sorted(self.rows(indexes))

    def content(self) -> list[list[Row]]:
        """The rows; the columns are those of this version."""
        return [
            self.rows(f"SELECT {listed} FROM mailseal_{table} ORDER BY 1")
            for table, listed in _COLUMNS.items()
        ]

    def has_a_waiting_host(self) -> bool:
        """Whether a host waits for the lock of another one."""
        if self._is_postgresql:
            waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        else:
            waiting = "SELECT 1 FROM information_schema.processlist WHERE state = 'User lock'"
        return bool(self.rows(waiting))


class Host:
    """Makes or upgrades the tables in a thread, with a connection of its own."""

    def __init__(self, fresh: Fresh) -> None:
        self._database = fresh.open()
        self.made: list[int] = []
        self.refused: NewerFormat | None = None
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.made and self.refused is None:
            try:
                self.made.append(schema.migrate(self._database))
            except NewerFormat as exc:
                self.refused = exc
            except TemporaryError as exc:  # a machine so busy that the other one was too slow
                assert "are being changed" in str(exc), exc
        self._database.close()

    def pause_before(self, words: str) -> None:
        """Pause before the first statement with these words, until `go_on` is set."""
        real = self._database.statement

        def statement(text: str, *values: object) -> int:
            if words in text and not self.reached.is_set():
                self.reached.set()
                self.go_on.wait()
            return real(text, *values)

        self._database.statement = statement  # type: ignore[method-assign]


class NextVersion:
    """`mailseal init --store` of the version that comes next."""

    def __init__(self, agent: AgentProcess) -> None:
        self._agent = agent

    def run(self, killed_at: int = 0) -> subprocess.CompletedProcess[str]:
        """Run it; `killed_at`: until it is killed."""
        command = [sys.executable, "-m", "tests.unit.tables.next_version"]
        command += ["--killed-at", str(killed_at)] if killed_at else []
        done = subprocess.run(
            [*command, "-c", str(self._agent.config), "init", "--store"],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": "lib:."},
        )
        assert done.returncode == (-signal.SIGKILL if killed_at else 0), done.stderr
        return done
