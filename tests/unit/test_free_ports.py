# SPDX-License-Identifier: MIT
"""The ports of the tests: several runs use the same machine."""

from __future__ import annotations

import subprocess
import sys

from tests.lab.place import REPOSITORY, free_ports

# Waits until its input ends, so that all of them run at the same time.
_SCRIPT = """
import random, sys
from tests.lab.place import free_ports
random.seed(1)
print(*free_ports(30), flush=True)
sys.stdin.read()
"""


def test_runs_at_the_same_time_get_different_ports() -> None:
    """Also if they choose alike: a port is used long after it has been found free."""
    others = []
    try:
        for _ in range(3):
            command = [sys.executable, "-c", _SCRIPT]
            others.append(
                subprocess.Popen(
                    command,
                    cwd=REPOSITORY,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={"PYTHONPATH": f"{REPOSITORY}/lib:{REPOSITORY}"},
                )
            )
        found = [free_ports(30)]
        for other in others:
            assert other.stdout is not None
            found.append([int(port) for port in other.stdout.readline().split()])
    finally:
        for other in others:
            other.communicate()
    assert all(len(ports) == 30 for ports in found)
    assert len({port for ports in found for port in ports}) == 120


def test_a_process_uses_no_port_again_soon() -> None:
    """The server on it may only be stopped for a moment."""
    ports = [port for _ in range(50) for port in free_ports(4)]
    assert len(set(ports)) == len(ports)
