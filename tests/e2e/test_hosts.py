# SPDX-License-Identifier: MIT
"""Two hosts, each with Postfix, Dovecot, an agent and a replica, and one PostgreSQL server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.two_hosts import LEASE, PLAIN, Host, add, deliver, in_clear, made
from tests.lab import Lab, clusters
from tests.lab.clusters import Keys
from tests.lab.databases import Postgresql
from tests.lab.imap import Imap, Refused
from tests.lab.place import AGENT_UID, MAIL_UID, REPLICA_UID, free_ports
from tests.lab.process import Server, suspend, wait_until
from tests.lab.smtp import send_lmtp

Address = tuple[str, int]

in_soak = pytest.mark.skipif(
    not os.environ.get("SOAK_HOSTS"), reason="make soak-hosts runs it: it takes long"
)


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with clusters.folder() as path:
        yield path


@pytest.fixture(scope="module")
def keys(folder: str) -> Iterator[Keys]:
    found = clusters.postgresql(folder)
    found.with_roles()
    yield found
    found.server.stop()


@pytest.fixture(scope="module")
def hosts(keys: Keys, folder: str) -> Iterator[tuple[Host, Host]]:
    with made(keys, folder, "one") as one, made(keys, folder, "two") as two:
        yield one, two


def test_a_user_enrolled_on_one_host_is_enrolled_on_the_other(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    add(hosts, "anna@example.org")
    assert one.ask("enroll", user=b"anna@example.org", password=b"password").status == "ok"
    for host in hosts:
        deliver(host.lab, "anna@example.org")
        deliver(host.lab, PLAIN)
        host.lab.wait_delivered()
        assert not in_clear(host.lab, "anna@example.org") and in_clear(host.lab, PLAIN)
        assert len(host.lab.inbox("anna@example.org")) == 1
    listed = one.lab.mailseal("hosts").stdout.decode()
    assert [line.split(":")[0] for line in listed.splitlines()] == ["one", "two"]
    assert one.lab.mailseal("hosts", "--forget", "two").returncode == 75, "it is alive"
    assert one.lab.mailseal("hosts", "--forget", "three").returncode == 67


def test_a_change_by_one_agent_is_seen_by_the_other(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    user = "berta@example.org"
    name = user.encode()
    assert one.ask("enroll", user=name, password=b"password").status == "ok"
    for host in hosts:
        assert host.unlock(user) == "ok"
    assert one.ask("passwd", user=name, old=b"password", new=b"second").status == "ok"
    assert two.unlock(user) == "wrong" and two.unlock(user, b"second") == "ok"
    before = two.ask("status", user=name).fields["users"]
    assert one.ask("rotate", user=name, password=b"second").status == "ok"
    assert two.unlock(user, b"second") == "ok"
    assert two.ask("status", user=name).fields["users"] != before
    made = one.ask("app", user=name, password=b"second", label=b"phone")
    assert two.unlock(user, made.fields["code"]) == "ok"
    assert one.ask("revoke", user=name, slot=made.fields["slot"]).status == "ok"
    assert two.unlock(user, made.fields["code"]) == "wrong"


@pytest.mark.parametrize("whose", ["one", "all"])
def test_lock_on_one_host_ends_the_sessions_on_all(hosts: tuple[Host, Host], whose: str) -> None:
    one, two = hosts
    user = f"cleo-{whose}@example.org"
    assert one.ask("enroll", user=user.encode(), password=b"password").status == "ok"
    for host in hosts:
        assert host.unlock(user) == "ok"
    fields = {"user": user.encode()} if whose == "one" else {}
    assert one.ask("lock", **fields).status == "ok"
    wait_until(
        lambda: b'"session": null' in two.ask("status", user=user.encode()).fields["users"],
        "the other agent has forgotten the keys",
    )
    assert two.unlock(user) == "ok"


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    suspend(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    "what", [pytest.param("the way to the database", marks=in_soak), "the replica"]
)
def test_after_enroll_no_host_stores_in_clear(hosts: tuple[Host, Host], what: str) -> None:
    """Mail arrives on both hosts all the time, while one of them does not get the change."""
    one, two = hosts
    user = f"dora-{what.split()[-1]}@example.org"
    add(hosts, user)
    sent: dict[str, int] = {"one": 0, "two": 0}
    enrolled = threading.Event()
    end = threading.Event()

    def load(name: str, host: Host) -> None:
        while not end.is_set():
            when = "after" if enrolled.is_set() else "before"
            deliver(host.lab, user, when)
            sent[name] += 1
            time.sleep(0.05)

    threads = [threading.Thread(target=load, args=pair) for pair in (("one", one), ("two", two))]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: in_clear(two.lab, user), "mail is delivered in clear before")
        pids = {"the way to the database": two.way.pid, "the replica": two.lab.replica.pid}
        with stopped(pids[what]):
            assert one.ask("enroll", user=user.encode(), password=b"password").status == "ok"
            enrolled.set()
            time.sleep(2)
        time.sleep(2)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    for name, host in (("one", one), ("two", two)):
        wait_until(lambda host=host: _flushed(host.lab), "the queue is empty", timeout=60)  # type: ignore[misc]
        clear = in_clear(host.lab, user)
        assert len(host.lab.stored(user)) == sent[name], "lost or doubled"
        assert not [data for data in clear if b"Subject: after" in data], "IN CLEAR"


def _flushed(lab: Lab) -> bool:
    lab.postfix.flush()
    return not lab.postfix_queue()


@pytest.fixture
def edge(hosts: tuple[Host, Host], keys: Keys, folder: str) -> Iterator[Address]:
    """A host that only receives mail: no Dovecot, no agent, no keyrings.  Its LMTP address."""
    lab = hosts[0].lab
    place = f"{folder}/edge"
    os.mkdir(place)
    os.chmod(place, 0o755)
    address: Address = ("127.0.0.1", free_ports(1)[0])
    options = {
        "state_dir": f"{place}/state",
        "log": {"to": "stderr"},
        "agent": {"user": AGENT_UID},
        "keys": {"store": keys.roles()[1]},
        "replica": {"name": "edge", "lease": LEASE, "user": REPLICA_UID},
        "delivery": {
            "user": MAIL_UID,
            "listen": ["{}:{}".format(*address)],
            "deliver_socket": None,
            "userdb": "template",
            "home": lab.place.path("mail", "%d", "%n"),
        },
        "dovecot": {
            "lmtp_socket": lab.dovecot.lmtp_socket,
            "userdb_socket": lab.dovecot.userdb_socket,
        },
    }
    config = Path(f"{place}/mailseal.yaml")
    config.write_text(json.dumps(options))
    config.chmod(0o644)
    subprocess.run([f"{lab.hooks}/mailseal", "-c", config, "init"], check=True)
    replica, delivery = (
        Server(name, [f"{lab.hooks}/{name}", "-c", str(config)], f"{place}/{name}.log")
        for name in ("mailseal-replica", "mailseal-lmtp")
    )
    # Delivery is there first: until the copy is whole, all mail waits.
    delivery.start(until=[address])
    try:
        assert at(address, PLAIN) == [451]
        replica.start(until=[])
        wait_until(lambda: os.path.exists(f"{place}/state/public/position"), "a copy")
        yield address
    finally:
        replica.stop()
        delivery.stop()


def at(address: Address, *users: str) -> list[int]:
    """The codes of its replies to a mail for these users."""
    mail = b"Subject: x\r\n\r\nx\r\n"
    return [code for code, _ in send_lmtp(address, "eve@example.net", list(users), mail)]


def test_a_host_that_only_receives_mail(
    hosts: tuple[Host, Host], keys: Keys, edge: Address
) -> None:
    one, _ = hosts
    user = "greta@example.org"
    add(hosts, user)
    for name in (user, PLAIN):
        deliver(one.lab, name, "first")  # makes the home
    one.lab.wait_delivered()
    assert one.ask("enroll", user=user.encode(), password=b"password").status == "ok"
    before = len(in_clear(one.lab, user)), len(one.lab.stored(PLAIN))
    assert at(edge, user, PLAIN) == [250, 250]
    assert len(one.lab.stored(user)) == 2 and len(in_clear(one.lab, user)) == before[0]
    assert len(one.lab.stored(PLAIN)) == before[1] + 1
    with one.lab.login(user) as imap:
        assert len(imap.bodies()) == 2
    keys.server.stop(signal.SIGKILL)
    try:
        time.sleep(LEASE + 0.5)
        assert at(edge, user, PLAIN) == [250, 451]
    finally:
        keys.server.start()
    wait_until(lambda: at(edge, PLAIN) == [250], "the copy is current")
    assert len(in_clear(one.lab, user)) == before[0]


def test_a_database_that_is_down(hosts: tuple[Host, Host], keys: Keys) -> None:
    one, _ = hosts
    user, other = "emil@example.org", "fred@example.org"
    add(hosts, user)
    for name in (user, other):
        assert one.ask("enroll", user=name.encode(), password=b"password").status == "ok"
    with one.lab.login(user) as imap:
        assert imap.bodies() == []
    keys.server.stop(signal.SIGKILL)
    try:
        assert one.unlock(user) == "ok"
        with one.lab.login(user) as imap:
            assert imap.bodies() == []
        assert one.unlock(user, b"wrong") == "temporary" == one.unlock(other)
        failed = one.ask("passwd", user=user.encode(), old=b"password", new=b"second")
        assert failed.status == "error" and failed.text("class") == "StoreUnreachable"
        deliver(one.lab, user)
        one.lab.wait_delivered()
        assert not in_clear(one.lab, user)
        time.sleep(LEASE + 0.5)
        # Users who are not enrolled can read mail, but nothing is stored in clear.
        with Imap(one.lab.imap, PLAIN, "password") as imap:
            before = len(imap.bodies())
            with pytest.raises(Refused):
                imap.append("INBOX", b"Subject: saved\r\n\r\nsaved\r\n")
        deliver(one.lab, PLAIN, "waits")
        deliver(one.lab, user)
        wait_until(lambda: len(one.lab.stored(user)) == 2, "mail for an enrolled user is delivered")
        wait_until(
            lambda: "status=deferred" in one.lab.log_text(), "mail for the other user is deferred"
        )
        assert len(one.lab.stored(PLAIN)) == before
    finally:
        keys.server.start()
    wait_until(lambda: one.unlock(other) == "ok", "the agent is connected again")
    wait_until(lambda: _flushed(one.lab), "mail for users who are not enrolled is delivered")
    assert len(one.lab.stored(PLAIN)) == before + 1
    with Imap(one.lab.imap, PLAIN, "password") as imap:
        imap.append("INBOX", b"Subject: saved\r\n\r\nsaved\r\n")


@in_soak
def test_a_failover(folder: str) -> None:
    """The old primary's place still accepts connections; agent, replica and delivery go on."""
    first = Postgresql(f"{folder}/a", f"{folder}/1", f"{folder}/a.log")
    url = f"postgresql://postgres@/postgres?host={first.connect['host']}"
    keys = Keys(first, url)
    keys.with_roles()
    second = Postgresql(f"{folder}/b", f"{folder}/2", f"{folder}/b.log", standby_of=first)
    servers = [server.connect["host"] for server in (first, second)]
    try:
        with made(keys, folder, "failover", servers) as host:
            answer = host.ask("enroll", user=b"a@example.org", password=b"password")
            assert answer.status == "ok"
            first.stop(signal.SIGKILL)
            second.promote()

            def is_enrolled() -> bool:
                answer = host.ask("enroll", user=b"b@example.org", password=b"password")
                return answer.status == "ok" or answer.text("class") == "AlreadyEnrolled"

            wait_until(is_enrolled, "the agent uses the new primary", timeout=60)
            assert host.unlock("a@example.org") == host.unlock("b@example.org") == "ok"
            time.sleep(LEASE)
            deliver(host.lab, PLAIN)
            wait_until(lambda: _flushed(host.lab), "the copy is current", timeout=60)
            assert len(in_clear(host.lab, PLAIN)) == 1
    finally:
        second.stop()
