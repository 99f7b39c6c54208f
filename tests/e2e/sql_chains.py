# SPDX-License-Identifier: MIT
"""Existing passdbs in SQL before mailseal's: SQLite, PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping

from tests.e2e.chain import Chain
from tests.lab import databases
from tests.lab.place import MAIL_UID


class Sql(Chain):
    snippet = "auth-behind-sql"
    driver = ""

    @property
    def _file(self) -> str:
        return self.lab.place.path("dovecot", "dovecot-sql.conf.ext")

    def places(self) -> Mapping[str, str]:
        return {"/etc/dovecot/dovecot-sql.conf.ext": self._file}

    def _connect_24(self) -> str:
        raise NotImplementedError

    def block_24(self) -> str:
        home = f"'{self.lab.place.path('mail')}/' || domain || '/' || local"
        fields = f"{home} AS {{}}home, {MAIL_UID} AS {{}}uid, {MAIL_UID} AS {{}}gid"
        prefetch = self.snippet.endswith("prefetch")
        extra = ", " + fields.replace("{}", "userdb_") if prefetch else ""
        where = "FROM users WHERE local = '%{user | username}' AND domain = '%{user | domain}'\n"
        return (
            f"sql_driver = {self.driver}\n{self._connect_24()}"
            "passdb sql {\n"
            f"  query = SELECT '%{{user}}' AS \"user\", '{{PLAIN}}' || password AS password{extra} "
            f"{where}}}\n"
            + ("userdb prefetch {\n}\n" if prefetch else "")
            + f"userdb sql {{\n  query = SELECT {fields.replace('{}', '')} {where}}}\n"
        )

    def _write(self, connect: str) -> None:
        home = f"'{self.lab.place.path('mail')}/' || domain || '/' || local"
        fields = f"{home} AS {{}}home, {MAIL_UID} AS {{}}uid, {MAIL_UID} AS {{}}gid"
        extra = ", " + fields.replace("{}", "userdb_") if self.snippet.endswith("prefetch") else ""
        with open(self._file, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(
                f"driver = {self.driver}\nconnect = {connect}\n"
                f"password_query = SELECT '%u' AS \"user\", '{{PLAIN}}' || password AS password"
                f"{extra} FROM users WHERE local = '%n' AND domain = '%d'\n"
                f"user_query = SELECT {fields.replace('{}', '')} "
                "FROM users WHERE local = '%n' AND domain = '%d'\n"
            )

    _CREATE = (
        "CREATE TABLE users (local varchar(99), domain varchar(99), password varchar(99), "
        "PRIMARY KEY (local, domain))"
    )

    def _change(self, user: str, password: str) -> str:
        local, _, domain = user.partition("@")
        return (
            f"INSERT INTO users VALUES ('{local}', '{domain}', '{password}') "
            f"ON CONFLICT (local, domain) DO UPDATE SET password = '{password}'"
        )


class Sqlite(Sql):
    """SQLite: a file."""

    driver = "sqlite"

    @property
    def _path(self) -> str:
        return self.lab.place.path("dovecot", "users.sqlite")

    def _connect_24(self) -> str:
        return f"sqlite_path = {self._path}\n"

    def start(self) -> None:
        with sqlite3.connect(self._path) as database:
            database.execute(self._CREATE)
        os.chmod(self._path, 0o644)
        self._write(self._path)

    def set_password(self, user: str, password: str) -> None:
        super().set_password(user, password)
        with sqlite3.connect(self._path) as database:
            database.execute(self._change(user, password))


class SqlitePrefetch(Sqlite):
    """SQLite, everything in one query."""

    snippet = "auth-behind-sql-prefetch"


class Postgresql(Sql):
    """A PostgreSQL server for the lab, on a unix socket."""

    driver = "pgsql"

    def _connect_24(self) -> str:
        names = "    dbname = postgres\n    user = postgres\n"
        return f"pgsql {self._socket} {{\n  parameters {{\n{names}  }}\n}}\n"

    @classmethod
    def missing(cls) -> str:
        return (
            "" if os.path.exists(f"{databases.POSTGRES}/postgres") else "postgresql dovecot-pgsql"
        )

    def start(self) -> None:
        place = self.lab.place
        self._socket = place.quick_path("pg")
        log = place.path("log", "postgresql.log")
        self._server = databases.Postgresql(place.path("postgresql"), self._socket, log)
        self._server.sql(self._CREATE)
        self._write(f"host={self._socket} dbname=postgres user=postgres")

    def set_password(self, user: str, password: str) -> None:
        super().set_password(user, password)
        self._server.sql(self._change(user, password))

    def stop(self) -> None:
        self._server.stop()
