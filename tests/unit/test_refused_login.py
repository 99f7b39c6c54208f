# SPDX-License-Identifier: MIT
"""A database that does not let mailseal log in: what the log and check-config say."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from mailseal.admin import access_check
from mailseal.config import load, parse
from mailseal.errors import StoreUnreachable
from mailseal.keys import opening
from tests.lab.clusters import Keys
from tests.lab.process import logged, suspend, wait_until
from tests.unit.agent_process import AgentProcess, running
from tests.unit.test_move_store import in_database

SECRET = "a secret of the database"


def other(keys: Keys, user: str) -> str:
    """The address with a user whom the database does not know."""
    start, _, rest = keys.url.partition("://")
    return f"{start}://{user}@{rest.partition('@')[2]}"


def findings(agent: AgentProcess) -> list[tuple[str, str]]:
    """What is said about the database, and what to do."""
    done = agent.run("check-config", "--no-sockets", "--json")
    found = json.loads(done.stdout)["findings"]
    return [(f["text"], f["remedy"]) for f in found if f["text"].startswith("mailseal-agent: ")]


def test_the_log_and_check_config_name_the_user_and_the_option(
    server: Keys, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(SECRET)
    password.chmod(0o600)
    url = other(server, "nobody")
    options = in_database(server).replace(server.url, url)
    options = options.replace("store:", f"store_password: {password}, store:")
    with running(tmp_path, options) as agent:
        hint = f"check the user in keys.store, and the password in {password}"
        logged(agent, "does not let nobody log in")
        logged(agent, "users with a session can still log in", timeout=60)
        lines = [line for line in agent.log_text().splitlines() if "not let nobody" in line]
        assert len(lines) == 2 and all("error" in x.lower() and hint in x for x in lines), lines
        ((found, remedy),) = findings(agent)
        assert "does not let nobody log in" in found and found.endswith(hint)
        assert "`systemctl restart mailseal-agent`" in remedy, "it has read the password already"
        answer = agent.ask("unlock", user=b"alice@example.org", password=b"pw")
        assert answer.status == "temporary" and hint in answer.text("reason")
        assert SECRET not in agent.log_text() + found + answer.text("reason")


def test_check_config_is_content_with_a_database_that_answers(
    postgresql: Keys, tmp_path: Path
) -> None:
    postgresql.empty()
    with running(tmp_path, in_database(postgresql)) as agent:
        wait_until(lambda: agent.ask("hosts").status == "ok", "the agent is connected")
        assert findings(agent) == []
        postgresql.server.stop(signal.SIGKILL)
        try:
            ((found, remedy),) = findings(agent)
        finally:
            postgresql.server.start()
        assert "the database" in found or "the connection" in found, found
        assert remedy.startswith("start the database")
    # Without the agent the check of the sockets has something to say, this one has not.
    assert findings(agent) == []


def test_an_agent_that_waits_for_its_database_is_reported(
    postgresql: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts connections, so the check of its socket is content."""
    postgresql.empty()
    monkeypatch.setattr(access_check, "_DATABASE_TIMEOUT", 1)
    with running(tmp_path, in_database(postgresql)) as agent:
        config = load(str(agent.config))
        wait_until(lambda: agent.ask("hosts").status == "ok", "the agent is connected")
        suspend(agent.pid)
        try:
            found = [x.text for x in access_check.store(config)]
        finally:
            os.kill(agent.pid, signal.SIGCONT)
    assert any("did not answer in time: does the database answer?" in text for text in found)


@pytest.mark.parametrize("section", ["keys", "replica"])
def test_a_password_that_is_needed_is_asked_for(server: Keys, section: str) -> None:
    """mailseal-replica has a password of its own, also with the address in keys.store."""
    database = opening.for_replica(parse(f"{section}: {{store: '{other(server, 'nobody')}'}}"))
    with pytest.raises(StoreUnreachable) as failure:
        database.row("SELECT 1")
    hint = failure.value.hint or ""
    assert f"check the user in {section}.store;" in hint
    assert hint.endswith("set replica.store_password")


def test_a_database_that_comes_back_without_the_user(postgresql: Keys, tmp_path: Path) -> None:
    """The log has both reasons, one after the other, and each of them once."""
    postgresql.empty()
    url, _ = postgresql.with_roles()
    server = postgresql.server
    with running(tmp_path, in_database(postgresql).replace(postgresql.url, url)) as agent:
        wait_until(lambda: agent.ask("hosts").status == "ok", "the agent is connected")
        server.sql("ALTER ROLE mailseal RENAME TO another")
        try:
            server.stop(signal.SIGKILL)
            try:
                logged(agent, "cannot reach the database", timeout=60)
            finally:
                server.start()
            logged(agent, "does not let mailseal log in", timeout=60)
        finally:
            server.sql("ALTER ROLE another RENAME TO mailseal")
        logged(agent, "the database answers again", timeout=60)
        lines = [x for x in agent.log_text().splitlines() if "does not let mailseal" in x]
        assert len(lines) == 1 and "check the user in keys.store" in lines[0], lines
