# SPDX-License-Identifier: MIT
"""The agent's process for lookups, in a lab with Dovecot 2.3 without Lua."""

from __future__ import annotations

import os

from tests.lab import Lab
from tests.lab.place import AGENT_UID
from tests.lab.process import children


def lookup_socket(lab: Lab) -> str:
    """The socket on which it listens."""
    return os.path.join(os.path.dirname(lab.agent_socket), "lookup", "agent.sock")


def lookup_process(lab: Lab) -> int:
    """Its pid: the child of the agent with the agent's uid."""
    found = children(lab.agent.pid)
    (pid,) = (pid for pid in found if f"Uid:\t{AGENT_UID}\t" in status_of(pid))
    return pid


def status_of(pid: int) -> str:
    with open(f"/proc/{pid}/status", encoding="ascii") as stream:
        return stream.read()
