# SPDX-License-Identifier: MIT
"""A database without tables on each server, and an agent that uses it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.clusters import Keys
from tests.unit.agent_process import AgentProcess
from tests.unit.tables.fresh import Fresh, NextVersion


@pytest.fixture
def fresh(server: Keys) -> Iterator[Fresh]:
    found = Fresh(server)
    yield found
    found.remove()


@pytest.fixture
def agent(fresh: Fresh, tmp_path: Path) -> Iterator[AgentProcess]:
    """It is not started."""
    options = f"keys: {{kdf: insecure-testing, store: '{fresh.url}'}}\n"
    made = AgentProcess(tmp_path, f"{options}replica: {{user: {os.getuid()}}}\n")
    yield made
    if made.running:
        made.stop(signal.SIGKILL)


@pytest.fixture
def next_version(agent: AgentProcess) -> NextVersion:
    return NextVersion(agent)
