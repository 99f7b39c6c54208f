# SPDX-License-Identifier: MIT
"""Databases for keys: with mailseal's tables; can be killed, and emptied between tests."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

from mailseal import database_address
from mailseal.keys.sql import schema
from mailseal.keys.sql.database import Database
from tests.lab.databases import Mariadb, Postgresql
from tests.lab.place import free_ports

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


@dataclasses.dataclass
class Pair:
    """A primary with mailseal's tables, its standby, and a URL with both.

    The standby is listed first: it must not be used while it is a standby.
    """

    first: Postgresql | Mariadb
    second: Postgresql | Mariadb
    url: str

    def open(self) -> Database:
        """A connection to the primary, as a process of its own would have."""
        return Database(database_address.parse(self.url))

    def count(self, server: Postgresql | Mariadb) -> int:
        """The number of public keys on one of the servers."""
        return int(server.sql("SELECT count(*) FROM mailseal_public_keys"))


@contextlib.contextmanager
def postgresql_pair(folder: str) -> Iterator[Pair]:
    """PostgreSQL at unix sockets."""
    with contextlib.ExitStack() as running:
        first = Postgresql(f"{folder}/one", f"{folder}/1", f"{folder}/one.log")
        running.callback(first.stop)
        start = "postgresql://postgres@/postgres?host="
        Keys(first, f"{start}{first.connect['host']}")
        place = (f"{folder}/two", f"{folder}/2", f"{folder}/two.log")
        second = Postgresql(*place, standby_of=first)
        running.callback(second.stop)
        hosts = f"{second.connect['host']},{first.connect['host']}"
        yield Pair(first, second, f"{start}{hosts}")


@contextlib.contextmanager
def mariadb_pair(folder: str) -> Iterator[Pair]:
    """MariaDB at ports of 127.0.0.1.  root may write on a standby, so mailseal has another user."""
    with contextlib.ExitStack() as running:
        servers: list[Mariadb] = []
        ports = free_ports(2)
        for number, port in enumerate(ports):
            os.mkdir(f"{folder}/{number}")
            os.chmod(f"{folder}/{number}", 0o755)
            primary = servers[0] if servers else None
            server = Mariadb(f"{folder}/{number}", port=port, standby_of=primary)
            running.callback(server.stop)
            if primary is None:
                keys = Keys(server, f"mysql://root@/mail?socket={server.connect['unix_socket']}")
                server.sql("CREATE USER mailseal@'127.0.0.1'")
                schema.grant(keys.open(), "mailseal", "mailseal")
            servers.append(server)
        hosts = ",".join(f"127.0.0.1:{port}" for port in reversed(ports))
        yield Pair(servers[0], servers[1], f"mysql://mailseal@{hosts}/mail")
