# SPDX-License-Identifier: MIT
"""mailseal-deliver with a running daemon, and the memory of an idle worker."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time

from tests.bench.peers import USER, MailsealPeer
from tests.lab.process import children

MAIL = b"Subject: x\n\n" + b"0123456789abcdef\n" * 240
COUNT = 40


def run(seal: MailsealPeer) -> dict[str, object]:
    """Milliseconds for each mail from exec to exit, and MiB of an idle worker."""
    command = [os.path.join(seal.hooks, "mailseal-deliver"), "-s", seal.lmtp, "-d", USER]
    times = []
    for _ in range(COUNT):
        start = time.monotonic()
        subprocess.run(command, input=MAIL, check=True)
        times.append((time.monotonic() - start) * 1000)
    return {
        "deliver_ms": {"median": statistics.median(times), "min": min(times), "max": max(times)},
        "worker_mib": max(memory(pid) for pid in workers(seal)),
    }


def workers(seal: MailsealPeer) -> list[int]:
    """Process ids of the workers."""
    return children(seal.server.pid)


def memory(pid: int) -> float:
    """Resident memory of a process in MiB, including shared pages."""
    with open(f"/proc/{pid}/status", encoding="ascii") as stream:
        match = re.search(r"VmRSS:\s+(\d+) kB", stream.read())
    return int(match[1]) / 1024 if match else 0.0
