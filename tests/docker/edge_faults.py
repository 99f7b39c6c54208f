# SPDX-License-Identifier: MIT
"""Kills (-9) each part of the four hosts in turn, and waits until it is back.

What systemd restarts by itself is not touched; Postfix, Dovecot and PostgreSQL are started again.
In the first round the database fails over, and the old primary becomes the standby, as
docs/edge.md says.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator
from functools import partial

from tests.docker.edge import PAGE, Cluster, Host
from tests.docker.page import commands

LMTP = ("mailseal-lmtp", "mailseal-lmtp-imap2")
"""The units on each MX host."""

DELIVERING = ("Postfix", "mailseal-lmtp", "mailseal-lmtp worker", "Dovecot", "Dovecot's LMTP")
"""After a kill of one of these, a mail may arrive twice: its reply was lost (docs/delivery.md)."""


@dataclasses.dataclass
class Kill:
    """What was killed, and when; `back` is the time when it was there again."""

    part: str
    host: str
    began: float = dataclasses.field(default_factory=time.time)
    back: float = 0.0


class Faults:
    """`kills`: all until now.  A round kills each part once, in random order."""

    def __init__(self, cluster: Cluster) -> None:
        self.kills: list[Kill] = []
        self._cluster = cluster

    def round(self) -> Iterator[str]:
        """Kill one part after the other; yields its name when it is back."""
        plan: list[tuple[str, Host, Callable[[], object]]] = []
        for host in self._cluster.mx:
            plan.append(("Postfix", host, partial(self._server, host, "postfix", _POSTFIX)))
            for unit in LMTP:
                plan.append(("mailseal-lmtp", host, partial(self._service, host, unit)))
                plan.append(("mailseal-lmtp worker", host, partial(self._worker, host, unit)))
        for host in self._cluster.imap:
            plan.append(("Dovecot", host, partial(self._server, host, "dovecot", _main("dovecot"))))
            lmtp = f"pgrep -x lmtp -P $({_main('dovecot')})"
            plan.append(("Dovecot's LMTP", host, partial(self._kill, host, lmtp)))
            plan.append(("mailseal-agent", host, partial(self._service, host, "mailseal-agent")))
        for host in self._cluster.hosts:
            unit = "mailseal-replica"
            plan.append((unit, host, partial(self._service, host, unit)))
        for part, host in zip(("primary", "standby"), self._cluster.databases, strict=True):
            plan.append((part, host, partial(self._database, host)))
        random.shuffle(plan)
        for part, host, kill in plan:
            killed = Kill(part, host.name)
            kill()
            killed.back = time.time()
            self.kills.append(killed)
            yield f"{part} on {host.name}"

    def failover(self) -> None:
        """The primary is killed for good; the standby takes over, and gets a standby."""
        old, new = self._cluster.databases
        killed = Kill("primary, with a failover", old.name)
        old.postgresql("kill -s KILL")
        old.run("systemctl disable postgresql")
        new.do("failover")
        self._cluster.databases[:] = [new, old]
        follow = commands("do", old.version, ("standby",), PAGE)
        old.run(follow.replace("db1.example.org", new.name.replace("imap", "db") + ".example.org"))
        old.run("systemctl enable postgresql")
        new.wait_synchronous()
        killed.back = time.time()
        self.kills.append(killed)

    def _kill(self, host: Host, find: str) -> str:
        """Kill the processes that the command finds; returns their ids."""
        script = f"pids=$({find}) && kill -9 $pids && echo $pids"
        said: list[str] = []

        def killed() -> bool:
            said[:] = host.run(f"{script} || true").split()
            return bool(said)

        host.wait(killed, f"`{find}` finds a process", seconds=60)
        return " ".join(said)

    def _service(self, host: Host, unit: str) -> None:
        """systemd restarts it."""
        old = self._kill(host, _main(unit))
        _wait_active(host, unit, old, _main(unit))

    def _server(self, host: Host, unit: str, find: str) -> None:
        """Nothing restarts it but the postmaster."""
        old = self._kill(host, find)
        # The limit of starts in ten seconds is for units that fail by themselves.
        host.run(f"systemctl reset-failed '{unit}*' || true; systemctl restart {unit}")
        _wait_active(host, unit, old, find)

    def _worker(self, host: Host, unit: str) -> None:
        """mailseal-lmtp starts another one."""
        children = f"pgrep -P $({_main(unit)})"
        before = len(host.run(f"{children} || true").split())
        old = self._kill(host, f"{children} | shuf -n 1")

        def again() -> bool:
            there = host.run(f"{children} || true").split()
            return old not in there and len(there) >= before

        host.wait(again, f"{unit} on {host.name} has another worker", seconds=60)

    def _database(self, host: Host) -> None:
        def answers() -> bool:
            host.postgresql("start")  # again and again: systemd may not have noticed the kill yet
            return host.status("runuser -u postgres -- psql -Atc 'SELECT 1'") == 0

        host.postgresql("kill -s KILL")
        host.wait(answers, f"PostgreSQL on {host.name} answers", seconds=60)


_POSTFIX = "cat /var/spool/postfix/pid/master.pid"


def _main(unit: str) -> str:
    """A command that prints the process id, or fails."""
    return f"systemctl show -p MainPID --value {unit} | grep -vx 0"


def _wait_active(host: Host, unit: str, old: str, find: str) -> None:
    script = f"new=$({find}) && [ $new != {old} ] && kill -0 $new && systemctl is-active -q {unit}"
    host.wait(lambda: host.status(script) == 0, f"{unit} on {host.name} is back", seconds=90)
