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
            self.run("initdb", "-D", data, "-A", "trust", "-N", "-E", "UTF8")
        else:
            options = ["-h", standby_of._socket, "-U", "postgres", "-c", "fast", "-R"]
            self.run("pg_basebackup", "-D", data, *options)
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
        for attempt in range(600):
            try:
                self.sql("SELECT 1")
                return
            except LabError as exc:
                if not any(w in str(exc) for w in ("starting up", "recovery")) or attempt == 599:
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
        wait_until(lambda: self.sql("SELECT pg_is_in_recovery()") == "f\n", "it is the primary")

    def demote(self) -> None:
        """Refuse writes from now on, without ending connections, and wait for no standby."""
        self.sql("ALTER SYSTEM SET synchronous_standby_names = ''")
        self.sql("ALTER SYSTEM SET default_transaction_read_only = on")
        self.sql("SELECT pg_reload_conf()")
        wait_until(lambda: self.sql("SHOW default_transaction_read_only") == "on\n", "read only")

    def sql(self, text: str) -> str:
        """The result of a statement: one line for each row, columns separated by a bar."""
        options = [*self.options, "-qAtX", "-v", "ON_ERROR_STOP=1"]
        return self.run("psql", *options, "-c", text)

    @property
    def options(self) -> list[str]:
        """Options with which programs connect to the server."""
        return ["-h", self._socket, "-p", str(self._port), "-U", "postgres"]

    def run(self, program: str, *arguments: str) -> str:
        """The output of one of PostgreSQL's programs."""
        command = [f"{POSTGRES}/{program}", *arguments]
        return _output(command, user="postgres")


class Mariadb:
    """root may log in at its socket; `connect` has the arguments of pymysql.connect().

    `port`: it can be replicated, and has this port on 127.0.0.1.  `standby_of`: it is a standby of
    this one until promote(); then a commit waits until the standby has it.
    """

    def __init__(
        self, folder: str, *, port: int | None = None, standby_of: Mariadb | None = None
    ) -> None:
        self._data, run, temporary = (f"{folder}/maria{end}" for end in ("", "-run", "-tmp"))
        for path in (run, temporary):
            os.mkdir(path)
            shutil.chown(path, "mysql", "mysql")
        os.chmod(run, 0o755)
        self._socket = f"{run}/sock"
        self._port = port
        common = ["--no-defaults", f"--datadir={self._data}", "--user=mysql"]
        common.append(f"--tmpdir={temporary}")
        _output(["mariadb-install-db", *common, "--auth-root-authentication-method=normal"])
        command = ["/usr/sbin/mariadbd", *common, f"--socket={self._socket}"]
        command += ["--skip-networking"] if port is None else _replicated(port)
        self._server = Server("MariaDB", command, f"{folder}/maria.log")
        self.connect = {"unix_socket": self._socket, "user": "root", "database": "mail"}
        self.start()
        if standby_of is None:
            self.sql("CREATE DATABASE mail CHARACTER SET utf8mb4", "")
        else:
            self._follow(standby_of)

    def _follow(self, primary: Mariadb) -> None:
        """Get all that the primary has ever done, and confirm each commit from then on."""
        self.sql("SET GLOBAL read_only = ON, rpl_semi_sync_slave_enabled = ON", "")
        primary.sql("CREATE USER follower@'127.0.0.1'")
        primary.sql("GRANT REPLICATION SLAVE ON *.* TO follower@'127.0.0.1'")
        self.sql(
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {primary._port}, "
            "MASTER_USER = 'follower', MASTER_USE_GTID = slave_pos; START SLAVE",
            "",
        )
        clients = "SHOW STATUS LIKE 'Rpl_semi_sync_master_clients'"
        primary.sql("SET GLOBAL rpl_semi_sync_master_enabled = ON")
        wait_until(lambda: primary.sql(clients).endswith("\t1\n"), "the standby follows")
        self._catch_up(primary.sql("SELECT @@gtid_binlog_pos").strip())

    def _catch_up(self, position: str) -> None:
        assert self.sql(f"SELECT MASTER_GTID_WAIT('{position}', 60)", "") == "0\n"

    def promote(self) -> None:
        """Make the standby a primary, when it has done all that it has received."""
        self.sql("STOP SLAVE IO_THREAD", "")
        self._catch_up(self._slave("Gtid_IO_Pos"))
        self.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF", "")

    def demote(self) -> None:
        """Refuse writes from now on, without ending connections, and wait for no standby."""
        self.sql("SET GLOBAL rpl_semi_sync_master_enabled = OFF, read_only = ON")

    def _slave(self, field: str) -> str:
        said = self.run("mariadb", "--vertical", "-e", "SHOW SLAVE STATUS")
        (found,) = (line for line in said.splitlines() if line.strip().startswith(f"{field}: "))
        return found.partition(": ")[2]

    def start(self) -> None:
        self._server.start(until=[self._socket], timeout=60)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        self._server.stop(sig)

    def sql(self, text: str, database: str = "mail") -> str:
        """The result of a statement: one line for each row, columns separated by TAB."""
        return self.run("mariadb", "-BN", "-e", text, *([database] if database else []))

    def run(self, program: str, *arguments: str) -> str:
        """The output of one of MariaDB's programs, which connects to the server."""
        options = ["--no-defaults", "-S", self._socket, "-u", "root"]
        return _output([program, *options, *arguments])


def _replicated(port: int) -> list[str]:
    """Options for a primary and a standby.  A commit waits for the standby without a time limit."""
    return [
        f"--port={port}",
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        f"--server-id={port}",
        "--log-bin=changes",
        "--log-slave-updates",
        "--sync-binlog=1",
        "--innodb-flush-log-at-trx-commit=1",
        "--rpl-semi-sync-master-timeout=4294967295",
        "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
    ]


def _output(command: list[str], user: str | None = None) -> str:
    identity = {"user": user, "group": user, "extra_groups": []} if user else {}
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", cwd="/", **identity
    )  # type: ignore[call-overload]
    if done.returncode:
        raise LabError(f"{command[0]}: {done.stderr.strip()[-500:]}")
    return str(done.stdout)
