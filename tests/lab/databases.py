# SPDX-License-Identifier: MIT
"""A PostgreSQL and a MariaDB of a test's own, on unix sockets, each with one table of users."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess

from tests.lab.place import LabError
from tests.lab.process import Server

TABLE = "CREATE TABLE users (address varchar(254) PRIMARY KEY, password varchar(254) NOT NULL)"


class Postgresql:
    """Trusts whoever reaches its socket; `connect` is what psycopg takes."""

    def __init__(self, folder: str) -> None:
        self._bin = max(glob.glob("/usr/lib/postgresql/*/bin"))
        self._data, self._socket = f"{folder}/pg", f"{folder}/pg-socket"
        for path in (self._data, self._socket):
            os.mkdir(path)
            shutil.chown(path, "postgres", "postgres")
        os.chmod(self._socket, 0o755)
        self._run("initdb", "-D", self._data, "-A", "trust", "-N", "-E", "UTF8")
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        command += [f"{self._bin}/postgres", "-D", self._data, "-k", self._socket]
        command += ["-c", "listen_addresses="]
        self._server = Server("PostgreSQL", command, f"{folder}/pg.log")
        self.connect = {"host": self._socket, "dbname": "postgres", "user": "postgres"}
        self.start()

    def start(self) -> None:
        self._server.start(until=[f"{self._socket}/.s.PGSQL.5432"])
        for attempt in range(100):
            try:
                self.sql("SELECT 1")
                return
            except LabError as exc:
                if "starting up" not in str(exc) or attempt == 99:
                    raise
                subprocess.run(["sleep", "0.1"], check=True)

    def stop(self) -> None:
        self._server.stop()

    def sql(self, text: str) -> str:
        """What a statement gives, a row a line, columns parted by a bar."""
        options = ["-h", self._socket, "-U", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1"]
        return self._run("psql", *options, "-c", text)

    def _run(self, program: str, *arguments: str) -> str:
        command = [f"{self._bin}/{program}", *arguments]
        return _output(command, user="postgres")


class Mariadb:
    """root may log in at its socket; `connect` is what PyMySQL takes."""

    def __init__(self, folder: str) -> None:
        self._data, run = f"{folder}/maria", f"{folder}/maria-run"
        os.mkdir(run)
        shutil.chown(run, "mysql", "mysql")
        os.chmod(run, 0o755)
        self._socket = f"{run}/sock"
        common = ["--no-defaults", f"--datadir={self._data}", "--user=mysql"]
        _output(["mariadb-install-db", *common, "--auth-root-authentication-method=normal"])
        command = ["/usr/sbin/mariadbd", *common, f"--socket={self._socket}", "--skip-networking"]
        self._server = Server("MariaDB", command, f"{folder}/maria.log")
        self.start()
        self.sql("CREATE DATABASE mail CHARACTER SET utf8mb4", "")
        self.connect = {"unix_socket": self._socket, "user": "root", "database": "mail"}

    def start(self) -> None:
        self._server.start(until=[self._socket], timeout=60)

    def stop(self) -> None:
        self._server.stop()

    def sql(self, text: str, database: str = "mail") -> str:
        """What a statement gives, a row a line, columns parted by TAB."""
        options = ["--no-defaults", "-S", self._socket, "-u", "root", "-BN"]
        return _output(["mariadb", *options, "-e", text, *([database] if database else [])])


def _output(command: list[str], user: str | None = None) -> str:
    identity = {"user": user, "group": user, "extra_groups": []} if user else {}
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", **identity)  # type: ignore[call-overload]
    if done.returncode:
        raise LabError(f"{command[0]}: {done.stderr.strip()[-500:]}")
    return str(done.stdout)
