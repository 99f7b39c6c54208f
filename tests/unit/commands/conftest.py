# SPDX-License-Identifier: MIT
"""An enrolled user; the files of the agent are in tmp_path."""

from __future__ import annotations

import pytest

from tests.unit.agent_process import AgentProcess
from tests.unit.commands.user import USER


@pytest.fixture
def enrolled(agent: AgentProcess) -> AgentProcess:
    assert agent.run("enroll", USER, stdin=b"pw\n").returncode == 0
    return agent
