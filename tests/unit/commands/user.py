# SPDX-License-Identifier: MIT
"""The user of these tests, and whether a password opens the keyring."""

from __future__ import annotations

from tests.unit.agent_process import AgentProcess

USER = "alice@example.org"


def opens(agent: AgentProcess, password: bytes, user: str = USER) -> bool:
    return agent.ask("unlock", user=user.encode(), password=password).status == "ok"


def code_of(agent: AgentProcess, *arguments: str, stdin: bytes = b"pw\n") -> bytes:
    done = agent.run(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
