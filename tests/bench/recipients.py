# SPDX-License-Identifier: MIT
"""Many recipients: mails per second and the time of a lookup, with and without mailseal's files.

The other benchmarks send to one mailbox, so nearly all lookups come from caches.  Here each mail of
a pass has another recipient.  The servers take turns, so that other work on the machine affects
all of them.

Each round has two passes with the same recipients.  In the first one each mail makes a new Maildir:
four folders, which the disk must store.  In the second one the Maildirs exist, as those of most
users do.  Before it, the lookups of the first pass leave mailseal-lmtp's cache.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

from mailseal.config import Config
from mailseal.config import parse as parse_config
from mailseal.crypto.eckeys import PrivateKey
from mailseal.delivery.dovecot.userdb import DovecotUserdb
from mailseal.keys.public import PublicStore
from tests.bench.delivery import SESSIONS, settle
from tests.bench.peers import DovecotPeer
from tests.lab import Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.place import LabError, Place

RECIPIENTS = 2000
LOOKUPS = 500
FILES = {
    "2.3": {"lua": "behind-passwd-file", "checkpassword": "behind-passwd-file-checkpassword"},
    "2.4": {"lua": "behind-passwd-file"},
}
GOALS = {"dovecot": 0.95, "mailseal": 1.2}
"""Wanted mails per second, relative to a Dovecot that never heard of mailseal: Dovecot's LMTP for
users who are not enrolled, and mailseal-lmtp for enrolled users."""

_CACHED = 10
"""Seconds for which mailseal-lmtp uses a lookup again: the default of delivery.userdb_cache."""

KINDS = {"rates": "new Maildirs", "rates_in_use": "Maildirs that exist"}
"""The two passes of a round."""


class _Server:
    """One LMTP socket; see names() for its recipients."""

    def __init__(self, name: str, lmtp: str, users: str, mail: str) -> None:
        self.name, self.lmtp, self.users, self.mail = name, lmtp, users, mail
        self._ended = 0.0

    def rate(self, number: int, mails: int) -> float:
        """Mails per second, in this round; afterwards each recipient has this number of mails."""
        time.sleep(max(0.0, self._ended + _CACHED - time.monotonic()))
        settle()
        address = f"{self.users}{number}@example.org"
        command = ["/usr/sbin/smtp-source", "-L", "-N", "-s", str(SESSIONS), "-l", "4096"]
        command += ["-m", str(RECIPIENTS), "-f", "dave@example.com", "-t", address]
        began = time.monotonic()
        done = subprocess.run([*command, f"unix:{self.lmtp}"], capture_output=True, text=True)
        self._ended = time.monotonic()
        seconds = self._ended - began
        if done.returncode or done.stderr:
            raise LabError(f"smtp-source: {done.stderr.strip()[:500]}")
        folders = (os.path.join(self.mail, name.partition("@")[0]) for name in names(address))
        got = sum(len(os.listdir(os.path.join(folder, "Maildir/new"))) for folder in folders)
        if got != mails * RECIPIENTS:
            raise LabError(f"{self.name} was given {mails * RECIPIENTS} mails, and has {got}")
        return RECIPIENTS / seconds


def names(address: str) -> list[str]:
    """The recipients of a round: smtp-source -N counts from 1 before the name, or, from Postfix 3.9
    on, from 0 behind it."""
    name, _, domain = address.partition("@")
    if _version() < (3, 9):
        return [f"{number}{address}" for number in range(1, RECIPIENTS + 1)]
    return [f"{name}{number}@{domain}" for number in range(RECIPIENTS)]


@functools.cache
def _version() -> tuple[int, ...]:
    done = subprocess.run(["postconf", "-dh", "mail_version"], capture_output=True, text=True)
    return tuple(map(int, done.stdout.split(".")[:2]))


def run(rounds: int, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Medians for each server: {"rates": mails per second to new Maildirs, "rates_in_use": to
    Maildirs that exist, "lookup_ms": milliseconds}."""
    with contextlib.ExitStack() as last_first:
        place = Place.make()
        last_first.callback(place.remove)
        plain = DovecotPeer("plain", place, None)
        last_first.callback(plain.stop)
        plain.dovecot.write_users(_users(rounds))
        plain.start()
        servers = [_Server("plain", plain.lmtp, "plain", os.path.join(plain.mail, "example.org"))]
        sockets = {"plain": plain.dovecot.userdb_socket}
        for name, file in FILES[series(installed_version())].items():
            lab = last_first.enter_context(_lab(file, rounds))
            mail = lab.place.path("mail", "example.org")
            servers.append(_Server(f"dovecot_{name}", lab.dovecot.lmtp_socket, "plain", mail))
            servers.append(_Server(f"mailseal_{name}", lab.lmtp_socket, "sealed", mail))
            sockets[name] = lab.dovecot.userdb_socket
        rates: dict[str, dict[str, list[float]]] = {
            kind: {server.name: [] for server in servers} for kind in KINDS
        }
        for number in range(rounds):
            for mails, (kind, text) in enumerate(KINDS.items(), 1):
                for server in servers if number % 2 == 0 else servers[::-1]:
                    rates[kind][server.name].append(rate := server.rate(number, mails))
                    say(f"{text}, round {number + 1}: {server.name} {rate:.0f} mails/s")
        lookups = _lookups(sockets)
    medians = {
        kind: {name: statistics.median(found) for name, found in of_kind.items()}
        for kind, of_kind in rates.items()
    }
    return {**medians, "lookup_ms": lookups}


def _users(rounds: int) -> dict[str, str]:
    numbers = range(rounds)
    kinds = [f"{kind}{number}@example.org" for kind in ("plain", "sealed") for number in numbers]
    return dict.fromkeys((name for kind in kinds for name in names(kind)), "password")


@contextlib.contextmanager
def _lab(file: str, rounds: int) -> Iterator[Lab]:
    """Dovecot, agent and mailseal-lmtp; the `sealed` users have a public key."""
    lab = Lab({}, auth=file, plain_users=_users(rounds))
    try:
        lab.mailseal("init")
        store = PublicStore(lab.place.path("state", "public"))
        key = PrivateKey.generate().public
        for number in range(rounds):
            for name in names(f"sealed{number}@example.org"):
                store.publish(name, key)
        lab.start_agent()
        lab.dovecot.start()
        lab.start_delivery()
        yield lab
    finally:
        lab.stop()


def _lookups(sockets: dict[str, str]) -> dict[str, float]:
    """The median time of a lookup of a user who is not enrolled, one after the other."""
    databases = {name: DovecotUserdb(_config(path)) for name, path in sockets.items()}
    times: dict[str, list[float]] = {name: [] for name in databases}
    for user in names("plain0@example.org")[:LOOKUPS]:
        for name, database in databases.items():
            began = time.perf_counter()
            if database.lookup(user) is None:
                raise LabError(f"{user} is unknown")
            times[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(found) for name, found in times.items()}


def _config(userdb_socket: str) -> Config:
    return parse_config(f"dovecot: {{userdb_socket: {userdb_socket}}}\n")
