# SPDX-License-Identifier: MIT
"""Mails per second for each server, with Postfix's smtp-source and 16 sessions.

The servers take turns, with several rounds for each size, so that other work on the
machine affects all of them.  All mails are counted in new/ afterwards, so that a server
that loses mail does not seem fast.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence

from tests.bench.peers import USER, Peer
from tests.lab.place import LabError

SESSIONS = 16
SIZES: tuple[tuple[str, int, int], ...] = (
    ("4 KB", 4096, 1000),
    ("50 KB", 50 * 1024, 1000),
    ("1 MB", 1 << 20, 150),
)
"""Name, bytes of the body, mails in each round."""


def run(peers: Sequence[Peer], rounds: int, say: Callable[[str], None]) -> dict[str, object]:
    """Rates in mails per second: {size: {peer: {median, rounds}}}."""
    results: dict[str, object] = {}
    for name, size, count in SIZES:
        rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for number in range(rounds):
            for peer in peers if number % 2 == 0 else list(reversed(peers)):
                rate = one_round(peer, size, count)
                rates[peer.name].append(rate)
                say(f"{name}, round {number + 1}: {peer.name} {rate:.0f} mails/s")
        results[name] = {
            peer: {"median": statistics.median(found), "rounds": [round(r, 1) for r in found]}
            for peer, found in rates.items()
        }
    return results


def one_round(peer: Peer, size: int, count: int) -> float:
    """Send `count` mails; returns mails per second."""
    peer.empty()
    settle()
    started = time.monotonic()
    send(peer.lmtp, size, count)
    rate = count / (time.monotonic() - started)
    arrived = len(os.listdir(os.path.join(peer.maildir, "new")))
    if arrived != count:
        raise LabError(f"{peer.name} was given {count} mails, and has {arrived}")
    return rate


def send(lmtp: str, size: int, count: int) -> None:
    """Run smtp-source.  Raises LabError if a mail was refused."""
    command = ["/usr/sbin/smtp-source", "-L", "-s", str(SESSIONS), "-m", str(count)]
    command += ["-l", str(size), "-f", "dave@example.com", "-t", USER, f"unix:{lmtp}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or done.stderr:
        raise LabError(f"smtp-source: {done.stderr.strip()[:500]}")


def settle() -> None:
    """Wait until the disk has written the last round, and processes are idle."""
    os.sync()
    time.sleep(1.5)
