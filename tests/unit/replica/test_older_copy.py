# SPDX-License-Identifier: MIT
"""A host whose copy has an older key pair than the keyring: logins, and the wait of a rotation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.keys.public import PublicStore
from mailseal.keys.sql.hosts import Hosts
from mailseal.keys.sql.public import SqlPublicKeys
from mailseal.keys.sql.replica import Replica
from mailseal.login.client import Answer
from mailseal.login.everywhere import Everywhere
from mailseal.login.protocol import Fields
from mailseal.login.thread_pools import ThreadPools
from tests.lab.clusters import Keys
from tests.unit.agent_process import AgentProcess, running
from tests.unit.replica.host import LOG, Clock, Host, key
from tests.unit.store_contract import USER
from tests.unit.test_move_store import in_database

PUBLIC = "mail_crypt_global_public_key"
NAME = USER.encode()
KEYLESS = "login: {keyless_services: [submission], password_check: passdb}\n"


class Site:
    """An agent whose host has a copy that is as new as the test wants."""

    def __init__(self, agent: AgentProcess, keys: Keys) -> None:
        self.agent, self.keys = agent, keys
        self.store = PublicStore(str(agent.folder / "state" / "public"))
        database = keys.open()
        self.replica = Replica(database, self.store, name="mx", seconds=30, log=LOG)

    def change(self, verb: str, **fields: bytes) -> Answer:
        """A change while no host has a row, so that it waits for none."""
        self.keys.server.sql("DELETE FROM mailseal_hosts")
        return self.agent.ask(verb, user=NAME, password=b"pw", **fields)

    def login(self, **fields: bytes) -> Answer:
        return self.agent.ask("unlock", user=NAME, password=b"pw", behind=b"1", **fields)


@pytest.fixture
def site(postgresql: Keys, tmp_path: Path) -> Iterator[Site]:
    postgresql.empty()
    with running(tmp_path, in_database(postgresql) + KEYLESS) as agent:
        yield Site(agent, postgresql)


def sealing(answer: Answer) -> str:
    assert answer.status == "ok", answer.fields
    return answer.text(PUBLIC)


def test_a_login_gets_the_pair_that_this_host_seals_with(site: Site) -> None:
    """Dovecot's userdb reads the copy, and refuses a login with another key."""
    asked: tuple[Fields, ...] = ({}, {"service": b"submission"}, {"master": b"root"})
    assert site.change("enroll").status == "ok"
    site.replica.step()
    old = sealing(site.login())
    assert site.change("rotate").status == "ok"
    answers = [site.login(**fields) for fields in ({}, *asked)]  # a new session, and a cached one
    assert [sealing(answer) for answer in answers] == [old] * 4
    assert sealing(site.agent.ask("lookup", user=NAME)) == old
    for answer in answers[:2]:
        assert f"{PUBLIC[:-10]}private_key2" in answer.fields, "both pairs are there for reading"
    site.replica.step()
    for fields in asked:
        assert sealing(site.login(**fields)) != old
    assert sealing(site.agent.ask("lookup", user=NAME)) != old


def test_a_key_in_the_copy_that_is_not_the_users_is_not_returned(site: Site) -> None:
    """Then the userdb refuses the login."""
    assert site.change("enroll").status == "ok"
    site.replica.step()
    own = sealing(site.login())
    site.store.publish(USER, key())
    for fields in ({}, {"service": b"submission"}):
        assert sealing(site.login(**fields)) == own


@pytest.mark.parametrize("command", ["rotate", "rekey"])
def test_a_rotation_names_the_hosts_that_seal_with_an_older_pair(site: Site, command: str) -> None:
    """It is done, so the exit status is 0: a second try would make another pair."""
    assert site.change("enroll").status == "ok"
    site.keys.server.sql(
        "INSERT INTO mailseal_hosts (id, name, lease, applied, beat, seen) "
        "VALUES ('1', 'silent', 0, 0, 1, CURRENT_TIMESTAMP)"
    )
    done = site.agent.run(command, USER, "--stdin", stdin=b"pw\n")
    assert done.returncode == 0 and b"key pair: silent;" in done.stderr, done.stderr
    site.keys.server.sql("DELETE FROM mailseal_hosts")
    done = site.agent.run(command, USER, "--stdin", stdin=b"pw\n")
    assert done.returncode == 0 and b"key pair:" not in done.stderr, done.stderr


class Walking(Clock):
    """A clock with which time passes whenever somebody looks."""

    def now(self) -> float:
        self.ahead += 10
        return super().now()


def test_a_rotation_waits_as_an_enrollment_does(server: Keys, tmp_path: Path) -> None:
    one, two = (Host(server, tmp_path / name, name) for name in ("one", "two"))
    database, clock = server.open(), Walking()
    public = SqlPublicKeys(database, Hosts(database, clock.now))
    pools = ThreadPools(parallel=1, queue=1, memory_kib=1024)
    for host in (one, two):
        host.replica.step()
    public.publish(USER, key())
    one.replica.step()
    began = clock.ahead
    try:
        found = asyncio.run(Everywhere(public, pools).rotated(USER))
        assert b"key pair: two;" in found["warning"] and clock.ahead - began > 37
        two.replica.step()
        assert asyncio.run(Everywhere(public, pools).rotated(USER)) == {}
        public.withdraw(USER)
        found = asyncio.run(Everywhere(public, pools).rotated(USER))
        assert b"not enrolled in the database any more" in found["warning"]
    finally:
        pools.stop()
