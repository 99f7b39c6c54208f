# SPDX-License-Identifier: MIT
"""What the agent and mailseal-replica of one host ask of PostgreSQL: transactions, and CPU time.

make bench-capacity-sql runs it; it needs root and PostgreSQL.

For the first logins of 400 users, for their logins with a session, and for a host on which
nothing happens.  The keyrings have the cheapest Argon2id profile, whose time is not the database's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.capacity import Say
from tests.bench.capacity_sql import SqlSite
from tests.lab.databases import Postgresql
from tests.unit.agent_process import HOOKS

_USERS = 400
_QUIET = 30
_REPORTED = 12
"""Seconds until a connection without work has reported its transactions (pgstat.c: 10 s)."""


class Meter:
    """Transactions of the database, and seconds of CPU time of its processes."""

    def __init__(self, site: SqlSite) -> None:
        assert isinstance(site.keys.server, Postgresql)
        self._server = site.keys.server
        self._last = self._read()

    def _read(self) -> tuple[float, float]:
        time.sleep(_REPORTED)
        text = "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database"
        done = float(self._server.sql(text))
        ticks = 0
        for pid in self._server.processes():
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
                ticks += sum(map(int, stream.read().rpartition(")")[2].split()[11:13]))
        return done, ticks / os.sysconf("SC_CLK_TCK")

    def passed(self) -> tuple[float, float]:
        """Since the last call."""
        before, self._last = self._last, self._read()
        return self._last[0] - before[0], self._last[1] - before[1]


def run(folder: Path, say: Say) -> None:
    """Print the figures."""
    site = SqlSite(folder / "site", 1000, say)
    command = ["/usr/bin/python3", str(HOOKS / "mailseal-replica"), "-c", str(site.agent.config)]
    replica = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        site.start()
        meter = Meter(site)
        time.sleep(_QUIET)
        done, cpu = meter.passed()
        seconds = float(_QUIET + _REPORTED)
        idle = done / seconds, cpu / seconds
        say(f"nothing happens: {idle[0]:.1f} transactions a second, {idle[1] * 1000:.1f} ms CPU")
        for kind in ("first login", "login with a session"):
            began = time.monotonic()
            site.asked("unlock", list(range(_USERS)))
            done, cpu = meter.passed()
            seconds = time.monotonic() - began
            done, cpu = done - idle[0] * seconds, cpu - idle[1] * seconds
            say(f"{kind}: {done / _USERS:.1f} transactions, {cpu / _USERS * 1000:.2f} ms CPU")
        count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        say(f"{int(site.keys.server.sql(count)) - 1} connections")
    finally:
        replica.send_signal(signal.SIGTERM)
        replica.wait()
        site.end()


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory(prefix="mailseal-load-") as name:
        run(Path(name), lambda line: print(line, file=sys.stderr, flush=True))


if __name__ == "__main__":
    main()
