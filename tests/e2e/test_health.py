# SPDX-License-Identifier: MIT
"""mailseal health: its status says whether the daemons answer."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.lab import Lab
from tests.lab.process import Server, suspend, wait_until


def _health(lab: Lab, *names: str) -> tuple[int, list[str]]:
    done = lab.mailseal("health", *names)
    assert done.stderr == b""
    return done.returncode, done.stdout.decode().splitlines()


def _while_frozen(server: Server, lab: Lab, name: str) -> tuple[int, list[str]]:
    pids = server.pids()
    for pid in pids:
        suspend(pid)
    try:
        return _health(lab, name)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_healthy(lab: Lab) -> None:
    log = Path(lab.place.path("log", "agent.log"))
    assert _health(lab) == (0, ["agent: ok", "lmtp: ok"])
    before = log.read_text()
    assert _health(lab) == (0, ["agent: ok", "lmtp: ok"])
    assert _health(lab, "lmtp") == (0, ["lmtp: ok"])
    assert log.read_text() == before


def test_one_that_does_not_run(lab: Lab) -> None:
    lab.stop_agent()
    try:
        status, lines = _health(lab)
        assert (status, lines[1]) == (1, "lmtp: ok")
        assert lines[0].startswith("agent: cannot reach the key agent")
    finally:
        lab.start_agent()
    lab.delivery.stop()
    try:
        status, lines = _health(lab)
        assert (status, lines[0]) == (1, "agent: ok")
        assert lines[1].startswith("lmtp: cannot connect to ")
    finally:
        lab.start_delivery()
    assert _health(lab)[0] == 0


def test_one_that_hangs(lab: Lab) -> None:
    """A unix socket of a process that is stopped still accepts connections."""
    status, lines = _while_frozen(lab.agent, lab, "agent")
    assert (status, lines) == (1, ["agent: the key agent did not answer in time"])
    status, lines = _while_frozen(lab.delivery, lab, "lmtp")
    assert status == 1
    assert lines[0].endswith("within 5 s")
    wait_until(lambda: _health(lab)[0] == 0, "both answer again", timeout=60)


def test_a_wrong_name_is_not_healthy(lab: Lab) -> None:
    assert _health(lab, "mailseal-agent") == (1, ["mailseal-agent: there is no such daemon"])


def test_a_user_without_access_is_told_so(lab: Lab) -> None:
    command = [os.path.join(lab.hooks, "mailseal"), "-c", lab.config_path, "health", "agent"]
    done = subprocess.run(command, capture_output=True, user=65534, group=65534, extra_groups=[])
    assert done.returncode == 1
    assert b"no access" in done.stdout
