# SPDX-License-Identifier: MIT
"""Databases for keys: with mailseal's tables; can be killed, and emptied between tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

from mailseal import database_address
from mailseal.keys.sql import schema
from mailseal.keys.sql.database import Database
from tests.lab.databases import Mariadb, Postgresql

_CREATE = """DO $$ BEGIN
IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{0}') THEN CREATE ROLE "{0}" LOGIN;
END IF; END $$"""

TABLES = ("changes", "keyrings", "public_keys", "hosts")


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A folder that the users of the databases can access."""
    path = tempfile.mkdtemp(prefix="mailseal-databases-")
    os.chmod(path, 0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


class Keys:
    """A database server with mailseal's tables.  `url` is what keys.store takes."""

    def __init__(self, server: Postgresql | Mariadb, url: str) -> None:
        self.server = server
        self.url = url
        schema.migrate(self.open(any_schema=True))

    def open(self, *, any_schema: bool = False) -> Database:
        """A connection of its own, as another process would have."""
        return Database(database_address.parse(self.url), any_schema=any_schema)

    def empty(self) -> None:
        """Empty all tables."""
        for table in TABLES:
            self.server.sql(f"DELETE FROM mailseal_{table}")
        self.server.sql(
            "UPDATE mailseal_state SET last_change = 0, stamp = '', locked = 0, moved_to = ''"
        )

    def with_roles(self) -> tuple[str, str]:
        """URLs for agents and for replicas, with roles that have only the rights they need."""
        agent, replica = "mailseal", "mailseal-replica"
        for role in (agent, replica):
            if isinstance(self.server, Postgresql):
                self.server.sql(_CREATE.format(role))
            else:
                self.server.sql(f"CREATE OR REPLACE USER '{role}'@localhost")
        schema.grant(self.open(), agent, replica)
        return self.roles()

    def roles(self) -> tuple[str, str]:
        """The URLs."""
        agent, replica = "mailseal", "mailseal-replica"
        start, rest = self.url.split("://")[0], self.url.partition("@")[2]
        return f"{start}://{agent}@{rest}", f"{start}://{replica}@{rest}"

    def power_cut(self) -> None:
        """Kill the server, so that unwritten data are lost, and start it again."""
        self.server.stop(signal.SIGKILL)
        self.server.start()


def postgresql(folder: str) -> Keys:
    """PostgreSQL at a unix socket."""
    server = Postgresql(f"{folder}/pg", f"{folder}/pg-socket", f"{folder}/pg.log")
    return Keys(server, f"postgresql://postgres@/postgres?host={server.connect['host']}")


def mariadb(folder: str) -> Keys:
    """MariaDB at a unix socket."""
    server = Mariadb(folder)
    return Keys(server, f"mysql://root@/mail?socket={server.connect['unix_socket']}")
