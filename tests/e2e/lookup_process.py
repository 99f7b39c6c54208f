# SPDX-License-Identifier: MIT
"""The agent's process for lookups, in a lab with Dovecot 2.3 without Lua."""

from __future__ import annotations

import contextlib
import os

from tests.lab import Lab
from tests.lab.place import AGENT_UID
from tests.lab.process import children, wait_until


def lookup_socket(lab: Lab) -> str:
    """The socket on which it listens."""
    return os.path.join(os.path.dirname(lab.agent_socket), "lookup", "agent.sock")


def lookup_process(lab: Lab) -> int:
    """Its pid: the child of the agent with the agent's uid."""
    found: list[int] = []

    def is_there() -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # another one has ended
            mark = f"Uid:\t{AGENT_UID}\t"
            found[:] = [pid for pid in children(lab.agent.pid) if mark in status_of(pid)]
        return len(found) == 1

    wait_until(is_there, "the process for lookups runs")
    return found[0]


def status_of(pid: int) -> str:
    with open(f"/proc/{pid}/status", encoding="ascii") as stream:
        return stream.read()
