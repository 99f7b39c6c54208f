# SPDX-License-Identifier: MIT
"""mailseal move-store, to a database and back, while users are enrolled and passwords changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import Damaged, TemporaryError
from mailseal.keys import lease, moving, opening
from mailseal.keys.keystore import Keystore
from mailseal.keys.moving import Move
from mailseal.keys.public import PublicStore
from mailseal.keys.sql.gate import SqlGate
from mailseal.keys.stores import KeyStores
from tests.lab.clusters import Keys
from tests.unit.agent_process import CHEAP, AgentProcess, running
from tests.unit.store_contract import make

LONG = "x" * 250


def in_database(keys: Keys) -> str:
    me = os.getuid()
    return f"keys: {{kdf: insecure-testing, store: '{keys.url}'}}\nreplica: {{user: {me}}}\n"


class Load:
    """Enrolls users and changes a password, and records what was acknowledged."""

    def __init__(self, agent: AgentProcess) -> None:
        self._agent = agent
        self.enrolled: list[str] = []
        self.refused: list[str] = []
        self.password = b"0"
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._end.is_set():
            number += 1
            user, new = f"new{number}@example.org", str(number).encode()
            answer = self._agent.ask("enroll", user=user.encode(), password=b"pw")
            if answer.status == "ok":
                self.enrolled.append(user)
            else:
                self.refused.append(answer.text("class"))
            answer = self._agent.ask("passwd", user=b"alice", old=self.password, new=new)
            if answer.status == "ok":
                self.password = new


def test_into_a_database_and_back(postgresql: Keys, tmp_path: Path) -> None:
    postgresql.empty()
    with running(tmp_path, CHEAP) as agent:
        for user in ("alice", LONG, "../bob"):
            assert agent.ask("enroll", user=user.encode(), password=b"0").status == "ok"
        assert agent.ask("suspend", user=b"../bob").status == "ok"
        others: list[str] = []
        for there, options in ((postgresql.url, in_database(postgresql)), ("files", CHEAP)):
            with Load(agent) as load:
                load.password = load.password if there != "files" else b"0"
                if there == "files":  # the folder was a replica meanwhile
                    lease.write(str(tmp_path / "state" / "public"), None)
                done = agent.run("move-store", "--to", there)
                assert done.returncode == 0, done.stderr
                while len(load.refused) < 3:
                    pass
            assert set(load.refused) == {"TemporaryError"}
            if there == "files":
                assert PublicStore(str(tmp_path / "state" / "public")).lookup("nobody") is None
            # Logins still work.
            assert agent.ask("unlock", user=LONG.encode(), password=b"0").status == "ok"
            agent.stop()
            agent.write_config(options)
            agent.start()
            others += load.enrolled
            for user in others:
                assert agent.ask("unlock", user=user.encode(), password=b"pw").status == "ok"
            assert agent.ask("unlock", user=LONG.encode(), password=b"0").status == "ok"
            assert agent.ask("unlock", user=b"alice", password=load.password).status == "ok"
            assert agent.ask("unlock", user=b"../bob", password=b"0").status == "temporary"
            new = agent.ask("passwd", user=b"alice", old=load.password, new=b"0")
            assert new.status == "ok"
            # The next round enrolls users with other names.
            for user in load.enrolled:
                assert agent.ask("unenroll", user=user.encode()).status == "ok"
            others.clear()


def test_undo_opens_the_old_store_again(postgresql: Keys, tmp_path: Path) -> None:
    postgresql.empty()
    with running(tmp_path, CHEAP) as agent:
        assert agent.ask("enroll", user=b"alice", password=b"0").status == "ok"
        assert agent.run("move-store", "--to", postgresql.url).returncode == 0
        answer = agent.ask("enroll", user=b"bob", password=b"0")
        assert answer.status == "error" and "moved to postgresql" in answer.text("message")
        assert agent.run("move-store", "--to", postgresql.url, "--undo").returncode == 0
        assert agent.ask("enroll", user=b"bob", password=b"0").status == "ok"
        # Once more, with the records that the first move has left there.
        assert agent.run("move-store", "--to", postgresql.url).returncode == 0
        assert opening.rows(postgresql.open())[0].users() == ["alice", "bob"]


def test_a_password_in_the_address_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, CHEAP) as agent:
        done = agent.run("move-store", "--to", "postgresql://a:secret@/mailseal")
        assert done.returncode == 64 and b"secret" not in done.stderr
        agent.write_config("keys: {store: 'postgresql://a:secret@/mailseal'}\n")
        done = agent.run("print-config")
        assert done.returncode == 78 and b"secret" not in done.stderr


@pytest.fixture
def files(tmp_path: Path) -> tuple[Keystore, PublicStore]:
    found = Keystore(str(tmp_path / "keys")), PublicStore(str(tmp_path / "public"))
    found[0].prepare()
    found[1].prepare()
    return found


def test_each_record_is_compared(
    server: Keys, files: tuple[Keystore, PublicStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    with KeyStores(*files).transaction("alice") as change:
        change.create(make("alice"))
    new = opening.rows(server.open())
    real = moving.Move._compare

    def compare(self: Move) -> int:
        server.server.sql("UPDATE mailseal_public_keys SET state = 'suspended'")
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Move, "_compare", compare)
        with pytest.raises(Damaged, match="differs"):
            Move(files, new, files[0], print).run("there")
    # The old store is still in use.
    with KeyStores(*files).transaction("alice") as change:
        change.save(change.keyring(), before=change.keyring())
    assert Move(files, new, files[0], print).run("there") == 1
    with pytest.raises(TemporaryError, match="moved to there"):
        files[0].create(make("bob"))


def test_damaged_records_are_not_moved(server: Keys, files: tuple[Keystore, PublicStore]) -> None:
    new = opening.rows(server.open())
    files[1].publish("alice", PrivateKey.generate().public)
    files[1].suspend("alice")  # and the keyring is lost
    with pytest.raises(Damaged, match="marked as enrolled"):
        Move(files, new, files[0], print).run("there")
    files[1].withdraw("alice")
    with KeyStores(*new).transaction("bob") as change:
        change.create(make("bob"))
    with pytest.raises(Damaged, match="has 1 users"):
        Move(files, new, files[0], print).run("there")


def test_a_closed_database_closes_agents_and_replicas(server: Keys) -> None:
    database = server.open()
    keyrings, public = opening.rows(database)
    keyrings.create(make("alice"))
    SqlGate(database).close("files")
    writes: list[Callable[[], object]] = [
        lambda: keyrings.create(make("bob")),
        lambda: keyrings.remove("alice"),
        lambda: public.withdraw("alice"),
        lambda: keyrings.end_sessions("alice"),
    ]
    for write in writes:
        with pytest.raises(TemporaryError, match="moved"):
            write()
    assert keyrings.users() == ["alice"]
    SqlGate(database).open()
    keyrings.create(make("bob"))
