# SPDX-License-Identifier: MIT
"""The agent starts, stops, crashes, and refuses a wrong configuration."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab.process import wait_until
from tests.unit.agent_process import CHEAP, HOOKS, PATIENCE, USER, AgentProcess, running


def test_sigterm_ends_with_zero_and_removes_the_socket(agent: AgentProcess) -> None:
    agent.ask("enroll", user=USER, password=b"pw")
    agent.ask("unlock", user=USER, password=b"pw")
    assert agent.stop() == 0
    assert not agent.socket.exists()
    assert "stopped, sessions ended=1" in agent.log_text()


def test_a_crash_loses_sessions_only(agent: AgentProcess) -> None:
    agent.ask("enroll", user=USER, password=b"pw")
    agent.ask("unlock", user=USER, password=b"pw")
    assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
    assert agent.socket.exists(), "a stale socket is left; the next agent replaces it"
    agent.start()
    assert agent.ask("unlock", user=USER, password=b"pw").status == "ok"
    assert agent.log_text().count("session=new") == 2


def test_sighup_opens_the_log_anew_and_ends_no_session(folder: Path) -> None:
    file = folder / "mailseal.log"
    with running(folder, f"{CHEAP}log: {{to: {file}}}\n") as agent:
        agent.ask("enroll", user=USER, password=b"pw")
        agent.ask("unlock", user=USER, password=b"pw")
        file.rename(folder / "mailseal.log.1")
        os.kill(agent.pid, signal.SIGHUP)
        agent.ask("lookup", user=USER)  # so the signal was handled before
        assert agent.ask("status").text("sessions") == "1"
        agent.ask("unlock", user=USER, password=b"pw")
        assert "session=cached" in file.read_text()


def test_a_second_agent_refuses_to_start(agent: AgentProcess) -> None:
    second = subprocess.run(
        [HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True, timeout=PATIENCE
    )
    assert second.returncode == 75
    assert b"another mailseal-agent listens" in second.stderr
    assert agent.ask("status").status == "ok", "the first one still works"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("keys: {escrow: /nonexistent}\n", "keys.escrow"),
        ("keys: {escrow: /dev/null}\n", "keys.escrow"),
        ("login: {enroll: sometimes}\n", "login.enroll"),
    ],
)
def test_a_wrong_option_is_named(folder: Path, options: str, named: str) -> None:
    agent = AgentProcess(folder, options)
    done = subprocess.run([HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True)
    assert done.returncode == 78
    assert named in done.stderr.decode() and b"Traceback" not in done.stderr


def test_an_unknown_user_name_in_a_list_is_named(folder: Path) -> None:
    agent = AgentProcess(folder)
    text = agent.config.read_text().replace("60604", "no-such-user-here")
    agent.config.write_text(text)
    done = subprocess.run([HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True)
    assert done.returncode == 78
    assert done.stderr == (
        b"mailseal-agent: error: option agent.login_users: there is no user no-such-user-here\n"
    )


def test_it_does_not_start_on_a_store_that_may_not_be_mounted(folder: Path) -> None:
    """A store made in an empty folder would mean that nobody is enrolled."""
    agent = AgentProcess(folder, CHEAP)
    for made in (False, True):
        if made:
            (folder / "state").mkdir()
        done = subprocess.run(
            [HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True, timeout=PATIENCE
        )
        assert done.returncode == 75, "systemd tries again: it may be mounted later"
        assert b"is not a store of keys" in done.stderr and b"mailseal init" in done.stderr
        assert os.path.isdir(folder / "state") is made
    assert agent.run("init").returncode == 0
    assert agent.run("init").returncode == 0
    agent.start()
    assert agent.stop() == 0


@pytest.mark.parametrize("key_too", [True, False])
def test_a_keyring_that_a_crash_left_unpublished_is_published_at_the_start(
    folder: Path, key_too: bool
) -> None:
    with running(folder) as agent:
        agent.ask("enroll", user=USER, password=b"pw")
        assert agent.stop() == 0
        public = folder / "state" / "public"
        mark, key = public / "enrolled" / "alice@example.org", public / "alice@example.org.json"
        mark.unlink()
        if key_too:
            key.unlink()
        agent.start()
        wait_until(lambda: mark.exists() and key.exists(), "the agent has tidied up")
