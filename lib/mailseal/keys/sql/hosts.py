# SPDX-License-Identifier: MIT
"""Lists the hosts with a replica of the public keys, and those that may lack a change.

A host says "not enrolled" only while its lease is valid, and its lease starts before it asks for
changes (replica.py).  So after a change is committed, each host either has confirmed it, or its
lease expires within the length of a lease.  Clocks of two hosts are never compared: each host
measures durations with its own clock.

    margin      clocks run at different speeds while they are corrected: chrony changes the speed
                by 8.4 % at most.  For one slow and one fast host: 20 %, and one second
    history     if the database has lost changes, this process starts to measure again: rows may be
                older than those that it saw, and numbers of changes are used again
    of_key      a public key is used for sealing without a lease.  Only a confirmation shows that
                a host does not use an older key any more
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from mailseal.errors import TemporaryError
from mailseal.keys.sql.database import Database
from mailseal.keys.sql.feed import Feed, Position

_FORGET = 86400.0
"""Seconds of silence after which a row from before a reboot is removed."""

_REMEMBERED = 10000


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def with_margin(lease: float) -> float:
    """Seconds after which a lease of another host has certainly expired."""
    return lease * 1.2 + 1


@dataclasses.dataclass(frozen=True)
class Host:
    """A row.  `silent`: seconds since this process last saw a sign of life."""

    id: str
    name: str
    lease: int
    applied: int
    beat: int
    seen: str
    silent: float = 0.0


class Hosts:
    """The table, as one process sees it.  Several threads may use it."""

    def __init__(self, database: Database, clock: Callable[[], float] = _now) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._feed = Feed(database)
        self._last = Position()
        self._beats: dict[str, tuple[tuple[int, str], float]] = {}
        self._asked: dict[Position, float] = {}

    def all(self) -> list[Host]:
        """All hosts, by name."""
        with self._database.pinned():
            self._compare_history()
            asked = self._clock()
            rows = self._database.rows(
                "SELECT id, name, lease, applied, beat, seen FROM mailseal_hosts ORDER BY name, id"
            )
        now = self._clock()
        found = []
        with self._lock:
            for id_, name, lease, applied, beat, seen in rows:
                known, sign = self._beats.get(str(id_)), (int(beat), str(seen))
                if known is None or known[0] != sign:
                    # The time is taken after the answer, so the sign of life is older.
                    known = self._beats[str(id_)] = (sign, now)
                silent = max(0.0, asked - known[1])
                values = (str(id_), str(name), int(lease), int(applied), int(beat), str(seen))
                found.append(Host(*values, silent))
            gone = self._beats.keys() - {host.id for host in found}
            for id_ in gone:
                del self._beats[id_]
        return found

    def _compare_history(self) -> None:
        """Forget what was seen if the database does not have the last change that was seen."""
        last = self._last
        is_known = self._feed.knows(last)
        row = self._database.row("SELECT last_change, stamp FROM mailseal_state")
        if row is None:
            raise TemporaryError("the database has lost the tables of mailseal")
        with self._lock:
            if not is_known:
                self._beats.clear()
                self._asked.clear()
            if not is_known or int(row[0]) > self._last.number:
                self._last = Position(int(row[0]), bytes(row[1]))

    def unaware(self, change: Position, *, of_key: bool) -> list[str]:
        """Names of the hosts that may still use the state before this change.

        Call it only after the change was committed.
        """
        hosts = self.all()
        with self._lock:
            if len(self._asked) > _REMEMBERED:
                self._asked.clear()
            first = self._asked.setdefault(change, self._clock())
        waited = self._clock() - first
        names = []
        for host in hosts:
            ended = max(waited, host.silent) > with_margin(host.lease)
            if host.applied < change.number and (of_key or not ended):
                names.append(host.name)
        return names

    def forget_silent(self) -> list[str]:
        """Remove rows that a host used before it was rebooted; returns the names.

        A row is silent for a day, and another one with this name is alive.  Other silent hosts may
        be cut off, and still seal with the keys that they have.
        """
        hosts = self.all()
        alive = {host.name for host in hosts if host.silent <= with_margin(host.lease)}
        old = [host for host in hosts if host.silent > _FORGET and host.name in alive]
        return [host.name for host in old if self._remove(host)]

    def forget(self, name: str) -> int:
        """Remove a host that will never seal again; returns the number of its rows.

        Rows with a valid lease stay: a host has a new row after a reboot.  Raises TemporaryError if
        this is so for all rows.
        """
        found = [host for host in self.all() if host.name == name]
        silent = [host for host in found if host.silent > with_margin(host.lease)]
        if found and not silent:
            host = min(found, key=lambda host: with_margin(host.lease) - host.silent)
            raise TemporaryError(
                f"{name} may be running: its last sign of life was {host.silent:.0f} s ago",
                hint="stop mailseal-replica there, unless the host was rebooted, and try again in "
                f"{with_margin(host.lease) - host.silent + 1:.0f} s",
            )
        return sum(self._remove(host) for host in silent)

    def _remove(self, host: Host) -> bool:
        return bool(
            self._database.statement(
                "DELETE FROM mailseal_hosts WHERE id = %s AND beat = %s", host.id, host.beat
            )
        )
