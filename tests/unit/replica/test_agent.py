# SPDX-License-Identifier: MIT
"""The agent beside a replica, and the rights of the roles in the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal.errors import TemporaryError
from mailseal.keys import lease, opening
from mailseal.keys.public import PublicStore
from mailseal.keys.sql.replica import Replica
from tests.lab.clusters import Keys
from tests.unit.agent_process import running
from tests.unit.replica.host import LOG, key
from tests.unit.store_contract import USER
from tests.unit.test_move_store import in_database


def test_the_agent_needs_the_copy_to_say_not_enrolled(postgresql: Keys, tmp_path: Path) -> None:
    """It may ask a primary that was cut off.  It is asked about long names."""
    postgresql.empty()
    user = "x" * 250
    with running(tmp_path, in_database(postgresql)) as agent:
        store = PublicStore(str(tmp_path / "state" / "public"))
        database = postgresql.open()
        replica = Replica(database, store, name="mx", seconds=30, log=LOG)
        assert agent.ask("lookup", user=user.encode()).status == "temporary"
        replica.step()
        assert agent.ask("lookup", user=user.encode()).status == "unknown"
        public = opening.rows(database)[1]
        public.publish(user, key())
        assert agent.ask("lookup", user=user.encode()).status == "ok"
        replica.step()
        public.withdraw(user)
        assert agent.ask("lookup", user=user.encode()).status == "temporary"
        replica.step()
        assert agent.ask("lookup", user=user.encode()).status == "unknown"
        lease.write(store.folder, None)
        assert agent.ask("lookup", user=user.encode()).status == "temporary"


@pytest.mark.parametrize("command", ["unenroll", "drop-key"])
def test_a_suspension_ends_if_the_hosts_do_not_confirm_it(
    postgresql: Keys, tmp_path: Path, command: str
) -> None:
    postgresql.empty()
    (tmp_path / "Maildir" / "cur").mkdir(parents=True)
    options = in_database(postgresql)
    options += f"delivery: {{userdb: template, home: {tmp_path}, user: root}}\n"
    with running(tmp_path, options) as agent:
        assert agent.run("enroll", USER, stdin=b"pw\n").returncode == 0
        public = opening.rows(postgresql.open())[1]
        first = public.lookup(USER)
        assert first is not None
        assert agent.run("rotate", USER, stdin=b"pw\n").returncode == 0
        more = {"unenroll": [], "drop-key": [first.key_id.hex()]}[command]
        postgresql.server.sql("ALTER TABLE mailseal_hosts RENAME TO away")
        try:
            done = agent.run(command, USER, *more, stdin=b"pw\n")
        finally:
            postgresql.server.sql("ALTER TABLE away RENAME TO mailseal_hosts")
        assert done.returncode == 75 and b"refused a statement" in done.stderr, done.stderr
        assert "suspend: user=<alice@example.org>, done" in agent.log_text(), agent.log_text()
        assert not public.is_suspended(USER) and public.lookup(USER) is not None


def test_roles_have_no_more_rights_than_they_need(server: Keys, tmp_path: Path) -> None:
    from mailseal import database_address
    from mailseal.keys.sql.database import Database

    agent, replica = (Database(database_address.parse(url)) for url in server.with_roles())
    keyrings, public = opening.rows(agent)
    public.publish(USER, key())
    keyrings.end_sessions(None)
    for text in (
        "SELECT * FROM mailseal_keyrings",
        "DELETE FROM mailseal_public_keys",
        "UPDATE mailseal_public_keys SET state = 'withdrawn'",
        "UPDATE mailseal_state SET last_change = 0",
        "DELETE FROM mailseal_changes",
        "DELETE FROM mailseal_hosts",
    ):
        with pytest.raises(TemporaryError):
            replica.statement(text)
    store = PublicStore(str(tmp_path / "public"))
    store.prepare(replica=True)
    Replica(replica, store, name="mx", seconds=30, log=LOG).step()
    assert store.users() == [USER]
    with pytest.raises(TemporaryError):
        agent.statement("DELETE FROM mailseal_state")
