# SPDX-License-Identifier: MIT
"""A PostgreSQL server and a MariaDB server for one test, on unix sockets."""

from __future__ import annotations

import contextlib
import glob
import os
import select
import shutil
import signal
import subprocess

from tests.lab.place import LabError
from tests.lab.process import Server, children, wait_until

POSTGRES = max(glob.glob("/usr/lib/postgresql/*/bin"), default="/usr/lib/postgresql/15/bin")
"""The folder with PostgreSQL's programs."""

TABLE = "CREATE TABLE users (address varchar(254) PRIMARY KEY, password varchar(254) NOT NULL)"


class Postgresql:
    """Accepts every connection to its socket; `connect` has the arguments of psycopg.connect().

    `standby_of`: the server is a standby of this one until promote(), with synchronous commits.
    """

    def __init__(
        self, data: str, socket: str, log: str, *, standby_of: Postgresql | None = None
    ) -> None:
        """Makes the folders `data` and `socket`; the path of `socket` must be short."""
        self._socket = socket
        self._port = 5432
        for path in (data, socket):
            os.mkdir(path)
            shutil.chown(path, "postgres", "postgres")
        os.chmod(socket, 0o755)
        if standby_of is None:
            self._run("initdb", "-D", data, "-A", "trust", "-N", "-E", "UTF8")
        else:
            options = ["-h", standby_of._socket, "-U", "postgres", "-c", "fast", "-R"]
            self._run("pg_basebackup", "-D", data, *options)
            os.chmod(data, 0o700)
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        command += [f"{POSTGRES}/postgres", "-D", data, "-k", socket]
        command += ["-c", "listen_addresses=", "-c", "fsync=off"]
        self._server = Server("PostgreSQL", command, log)
        self.connect = {"host": socket, "dbname": "postgres", "user": "postgres"}
        self.start()
        if standby_of is not None:
            standby_of.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
            standby_of.sql("SELECT pg_reload_conf()")
            wait_until(
                lambda: "sync\n" in standby_of.sql("SELECT sync_state FROM pg_stat_replication"),
                "the standby follows",
            )

    def start(self) -> None:
        """Returns when statements are answered: before, connections are accepted and refused."""
        self._server.start(until=[f"{self._socket}/.s.PGSQL.{self._port}"])
        for attempt in range(100):
            try:
                self.sql("SELECT 1")
                return
            except LabError as exc:
                if not any(w in str(exc) for w in ("starting up", "recovery")) or attempt == 99:
                    raise
                subprocess.run(["sleep", "0.1"], check=True)

    def listen(self, address: str, port: int, *settings: str) -> None:
        """From the next start on, listen on TCP also, with these settings."""
        self._port = port
        for setting in (f"listen_addresses={address}", f"port={port}", *settings):
            self._server.command += ["-c", setting]

    def stop(self, sig: signal.Signals = signal.SIGINT) -> None:
        """Stop the server.  SIGINT does not wait for clients.

        Each of its processes has a session of its own.  Those that outlive a killed server
        still use its shared memory, and it cannot be started again.
        """
        with contextlib.ExitStack() as opened:
            others = []
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    others.append(os.pidfd_open(pid))
                    opened.callback(os.close, others[-1])
            self._server.stop(sig)
            for other in others:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(other, signal.SIGKILL)
                select.select([other], [], [])

    def processes(self) -> list[int]:
        """The processes that the server has started; none if it does not run."""
        return children(self._server.pid) if self._server.running else []

    def promote(self) -> None:
        """Make the standby a primary."""
        self.sql("ALTER SYSTEM SET synchronous_standby_names = ''")
        self.sql("SELECT pg_reload_conf()")
        self.sql("SELECT pg_promote()")

    def sql(self, text: str) -> str:
        """The result of a statement: one line for each row, columns separated by a bar."""
        options = ["-h", self._socket, "-p", str(self._port), "-U", "postgres"]
        options += ["-qAtX", "-v", "ON_ERROR_STOP=1"]
        return self._run("psql", *options, "-c", text)

    def _run(self, program: str, *arguments: str) -> str:
        command = [f"{POSTGRES}/{program}", *arguments]
        return _output(command, user="postgres")


class Mariadb:
    """root may log in at its socket; `connect` has the arguments of pymysql.connect()."""

    def __init__(self, folder: str) -> None:
        self._data, run, temporary = (f"{folder}/maria{end}" for end in ("", "-run", "-tmp"))
        for path in (run, temporary):
            os.mkdir(path)
            shutil.chown(path, "mysql", "mysql")
        os.chmod(run, 0o755)
        self._socket = f"{run}/sock"
        common = ["--no-defaults", f"--datadir={self._data}", "--user=mysql"]
        common.append(f"--tmpdir={temporary}")
        _output(["mariadb-install-db", *common, "--auth-root-authentication-method=normal"])
        command = ["/usr/sbin/mariadbd", *common, f"--socket={self._socket}", "--skip-networking"]
        self._server = Server("MariaDB", command, f"{folder}/maria.log")
        self.start()
        self.sql("CREATE DATABASE mail CHARACTER SET utf8mb4", "")
        self.connect = {"unix_socket": self._socket, "user": "root", "database": "mail"}

    def start(self) -> None:
        self._server.start(until=[self._socket], timeout=60)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        self._server.stop(sig)

    def sql(self, text: str, database: str = "mail") -> str:
        """The result of a statement: one line for each row, columns separated by TAB."""
        options = ["--no-defaults", "-S", self._socket, "-u", "root", "-BN"]
        return _output(["mariadb", *options, "-e", text, *([database] if database else [])])


def _output(command: list[str], user: str | None = None) -> str:
    identity = {"user": user, "group": user, "extra_groups": []} if user else {}
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", cwd="/", **identity
    )  # type: ignore[call-overload]
    if done.returncode:
        raise LabError(f"{command[0]}: {done.stderr.strip()[-500:]}")
    return str(done.stdout)
