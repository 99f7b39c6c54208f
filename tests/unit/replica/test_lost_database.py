# SPDX-License-Identifier: MIT
"""An empty database, and a host whose copy still has the users: nobody is taken for a new user."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal.keys.public import PublicStore
from mailseal.keys.sql.replica import Replica
from tests.lab.clusters import Keys
from tests.unit.agent_process import running
from tests.unit.replica.host import LOG
from tests.unit.store_contract import USER
from tests.unit.test_move_store import in_database

AT_LOGIN = "login: {enroll: at-login, password_check: passdb}\n"
BEHIND = {"behind": b"1", "mechanism": b"PLAIN"}
ONLY = "login: {password_check: keyring}\n"


@pytest.mark.parametrize(("login", "behind"), [(AT_LOGIN, BEHIND), (ONLY, {})])
def test_a_login_fails_temporarily(
    postgresql: Keys, tmp_path: Path, login: str, behind: dict[str, bytes]
) -> None:
    """A new keyring could not open the mail; and the password is not wrong."""
    postgresql.empty()
    backup = str(tmp_path / "backup")
    with running(tmp_path, in_database(postgresql) + login) as agent:
        store = PublicStore(str(tmp_path / "state" / "public"))
        replica = Replica(postgresql.open(), store, name="mx", seconds=30, log=LOG)

        def answer(user: str = USER) -> str:
            return agent.ask("unlock", user=user.encode(), password=b"pw", **behind).status

        assert agent.ask("enroll", user=USER.encode(), password=b"pw").status == "ok"
        replica.step()
        assert agent.run("backup", backup).returncode == 0
        assert answer() == "ok"
        postgresql.empty()
        assert answer() == "temporary"
        replica.step()
        assert answer() == "temporary"
        assert postgresql.server.sql("SELECT count(*) FROM mailseal_keyrings") == "0\n"
        postgresql.server.sql("DELETE FROM mailseal_hosts")  # so that no change waits for one
        assert answer("new@example.org") == ("ok" if behind else "wrong")
        done = agent.run("restore", backup)
        assert done.returncode == 0, done.stderr
        replica.step()
        assert answer() == "ok"
