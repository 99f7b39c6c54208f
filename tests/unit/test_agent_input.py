# SPDX-License-Identifier: MIT
"""Invalid requests, passwords and user names for the agent, and what gets into its log."""

from __future__ import annotations

import socket

import pytest

from mailseal.login import protocol
from tests.unit.agent_process import PATIENCE, USER, AgentProcess


def raw(agent: AgentProcess, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(agent.socket))
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except OSError:
            pass
    return b"".join(parts)


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"\xff\xfe\n",
        b"nonsense\n",
        b"unlock user\n",
        b"unlock user=zz\n",
        b"unlock user=00 user=00\n",
        b"__init__\n",
        b"unlock " + b"a" * protocol.MAX_REQUEST + b"\n",
        b"unlock user=" + b"61" * 10_000_000 + b"\n",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_invalid_data_gets_an_error(agent: AgentProcess, data: bytes) -> None:
    answer = raw(agent, data)
    assert b"Traceback" not in answer
    assert answer == b"" or answer.startswith((b"error ", b"wrong"))
    assert agent.ask("status").status == "ok"


def test_half_a_line_and_a_disconnect(agent: AgentProcess) -> None:
    assert raw(agent, b"unlock user=6") == b""
    assert agent.ask("status").status == "ok"


@pytest.mark.parametrize(
    "password", [b"", b"\0", b"p\0w", b"x" * 20_000, b"\xff\xfe", b"pw "], ids=repr
)
def test_wrong_passwords(agent: AgentProcess, password: bytes) -> None:
    agent.ask("enroll", user=USER, password=b"pw")
    assert agent.ask("unlock", user=USER, password=password).status == "wrong"
    assert agent.ask("status").text("sessions") == "0"


@pytest.mark.parametrize("user", [b"", b"\0", b"a\nb", b"\xff", b"x" * 255, b"nobody"], ids=repr)
def test_invalid_users(agent: AgentProcess, user: bytes) -> None:
    assert agent.ask("unlock", user=user, password=b"pw").status == "wrong"
    assert agent.ask("lookup", user=user).status == "unknown"
    behind = agent.ask("unlock", user=user, password=b"pw", behind=b"1")
    assert behind.status == "unknown"


def test_no_secret_and_no_forged_line_in_the_log(agent: AgentProcess) -> None:
    agent.ask("enroll", user=USER, password=b"sekrit-one")
    agent.ask("unlock", user=USER, password=b"sekrit-one", service=b"imap\nforged line")
    agent.ask("unlock", user=b"eve\nforged line", password=b"sekrit-two")
    agent.ask("passwd", user=USER, old=b"sekrit-one", new=b"sekrit-three")
    code = agent.ask("recovery", user=USER, password=b"sekrit-three").fields["code"]
    agent.ask("recover", user=USER, code=code, new=b"sekrit-four")
    keys = agent.ask("export", user=USER, secret=b"sekrit-four").text("keys")
    log = agent.log_text()
    assert "sekrit" not in log and b"sekrit".hex() not in log
    assert code.decode() not in log and code.decode().replace("-", "") not in log
    assert keys.split(":")[3] not in log
    assert not any(line.startswith("forged") for line in log.splitlines())
    assert "imap\\x0aforged line" in log
