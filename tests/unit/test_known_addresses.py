# SPDX-License-Identifier: MIT
"""Addresses of earlier logins are kept over a restart of the agent, so an attack delays nobody."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent_process import AgentProcess, running

USER, PASSWORD = b"alice@example.org", b"a password"
HOME, FAR = b"2001:db8:1:2::7", b"198.51.100.7"
OPTIONS = (
    "login: {password_check: keyring, wrong_per_user: 3, wrong_per_address: 3, wrong_pause: 60s}\n"
    "keys: {kdf: insecure-testing}\n"
)


def login(agent: AgentProcess, remote: bytes, password: bytes = PASSWORD) -> str:
    return agent.ask("unlock", user=USER, password=password, remote=remote).status


def attack(agent: AgentProcess) -> None:
    """Until the right password is not even checked."""
    for number in range(4):
        login(agent, FAR, b"guess %d" % number)
    assert login(agent, FAR) == "temporary"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with running(tmp_path, OPTIONS) as made:
        made.ask("enroll", user=USER, password=PASSWORD)
        yield made


def test_a_restart_forgets_no_address(agent: AgentProcess) -> None:
    assert login(agent, HOME) == "ok"
    agent.stop()
    path = agent.folder / "state" / "notes" / "addresses.json"
    assert json.loads(path.read_bytes()) == {USER.decode(): ["2001:db8:1:2::/64"]}
    assert path.stat().st_mode & 0o777 == 0o600
    agent.start()
    attack(agent)
    assert login(agent, HOME) == "ok"
    agent.stop(signal.SIGTERM)
    assert json.loads(path.read_bytes()) == {USER.decode(): ["2001:db8:1:2::/64"]}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"alice@example.org": "x", "": [7, "no address", ""]}', b"\xff" * 99],
)
def test_a_damaged_file_is_ignored(agent: AgentProcess, content: bytes) -> None:
    path = agent.folder / "state" / "notes" / "addresses.json"
    agent.stop()
    path.write_bytes(content)
    agent.start()
    attack(agent)
    assert login(agent, HOME) == "temporary"
    path.unlink()
    os.mkdir(path)
    agent.stop()
    agent.start()
    assert login(agent, HOME) == "ok"
