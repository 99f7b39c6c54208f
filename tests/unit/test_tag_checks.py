# SPDX-License-Identifier: MIT
"""The agent checks tags of files that others open: it gives no keys and no content away."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import AgentUnavailable
from mailseal.keys.public import PublicStore
from mailseal.login.client import AgentClient
from tests.unit.agent_process import AgentProcess, running

USER, PASSWORD = b"alice@example.org", b"correct horse"
TEXT = b"Subject: tangerine\n\nin the cellar\n"
NAME = b"1.M1P1.host,S=%d,W=%d" % (len(TEXT), len(TEXT) + TEXT.count(b"\n"))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    """With a session of USER."""
    with running(tmp_path) as made:
        assert made.ask("enroll", user=USER, password=PASSWORD).status == "ok"
        assert made.ask("unlock", user=USER, password=PASSWORD).status == "ok"
        yield made


@pytest.fixture
def sealed(agent: AgentProcess, tmp_path: Path) -> bytes:
    key = PublicStore(str(agent.folder / "state" / "public")).lookup(USER.decode())
    assert key is not None
    return dcrypt.seal(key, TEXT)


def check(client: AgentClient, folder: Path, data: bytes, name: bytes = NAME) -> tuple[str, str]:
    """Status and kind of the answer."""
    path = folder / "mail"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        answer = client.check_file(name, fd)
    finally:
        os.close(fd)
    assert b"tangerine" not in b"".join(answer.fields.values())
    return answer.status, answer.text("kind")


def begun(agent: AgentProcess) -> AgentClient:
    client = AgentClient(str(agent.socket), 60)
    answer = client.request("check", user=USER)
    assert (answer.status, answer.fields) == ("ok", {})
    return client


def test_only_the_result_comes_back(agent: AgentProcess, sealed: bytes, tmp_path: Path) -> None:
    with begun(agent) as client:
        assert check(client, tmp_path, sealed) == ("ok", "")
        assert check(client, tmp_path, sealed, NAME.replace(b"W=", b"W=1")) == ("bad", "size")
        changed = bytearray(sealed)
        changed[-20] ^= 1
        assert check(client, tmp_path, bytes(changed)) == ("bad", "changed")
        foreign = dcrypt.seal(PrivateKey.generate().public, TEXT)
        assert check(client, tmp_path, foreign)[0] == "bad"
        assert check(client, tmp_path, sealed) == ("ok", "")
    # The agent itself goes on.
    assert agent.ask("unlock", user=USER, password=PASSWORD).status == "ok"


def test_it_ends_with_the_session(agent: AgentProcess, sealed: bytes, tmp_path: Path) -> None:
    with begun(agent) as client:
        assert check(client, tmp_path, sealed) == ("ok", "")
        assert agent.ask("lock", user=USER).status == "ok"
        with pytest.raises(AgentUnavailable):
            check(client, tmp_path, sealed)
    with AgentClient(str(agent.socket), 60) as client:
        answer = client.request("check", user=USER)
        assert (answer.status, answer.text("message")) == (
            "error",
            "alice@example.org has no session",
        )


def test_it_ends_with_the_agent(agent: AgentProcess, sealed: bytes, tmp_path: Path) -> None:
    with begun(agent) as client:
        assert check(client, tmp_path, sealed) == ("ok", "")
        agent.stop()
        with pytest.raises(AgentUnavailable):
            check(client, tmp_path, sealed)


def test_nothing_but_a_descriptor_is_taken(
    agent: AgentProcess, sealed: bytes, tmp_path: Path
) -> None:
    with begun(agent) as client, pytest.raises(AgentUnavailable):
        client.request("export", user=USER, secret=PASSWORD)
    with begun(agent) as client:
        reading, writing = os.pipe()
        os.write(writing, sealed)
        os.close(writing)
        answer = client.check_file(NAME, reading)
        os.close(reading)
        assert answer.text("kind") == "unreadable"


def test_who_has_logged_in_is_listed(agent: AgentProcess) -> None:
    found = agent.ask("sessions", newer=b"60")
    assert json.loads(found.fields["users"]) == ["alice@example.org"]
    assert json.loads(agent.ask("sessions", newer=b"0").fields["users"]) == []
