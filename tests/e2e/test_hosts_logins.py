# SPDX-License-Identifier: MIT
"""Changes on one host, and then logins by IMAP on the other one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from mailseal.crypto import dcrypt
from mailseal.keys import lease
from mailseal.keys.public import PublicStore
from mailseal.login.client import Answer
from tests.e2e.two_hosts import LONG_LEASE, PLAIN, Host, deliver, in_clear, pair
from tests.lab.clusters import Keys
from tests.lab.dovecot import installed_version
from tests.lab.imap import Imap, Refused
from tests.lab.process import children, suspend, wait_until

TEMPORARY, WRONG = r"\[UNAVAILABLE\]", r"\[AUTHENTICATIONFAILED\]"
ANNA, BERTA, GRETA, HANNA, IDA = USERS = [
    f"{name}@example.org" for name in ("anna", "berta", "greta", "hanna", "ida")
]
SAVED = b"Subject: saved\r\n\r\nsaved\r\n"


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Keys, Host, Host]]:
    with pair(USERS) as found:
        yield found


@pytest.fixture
def hosts(site: tuple[Keys, Host, Host]) -> tuple[Host, Host]:
    return site[1:]


def login(host: Host, user: str, password: str) -> list[bytes]:
    """The mails that an IMAP login reads, after it has saved one."""
    with Imap(host.lab.imap, user, password) as imap:
        imap.append("INBOX", SAVED)
        return imap.bodies()


def saves(host: Host, user: str) -> bool:
    """Whether Dovecot saves a mail for a user who can log in."""
    with Imap(host.lab.imap, user, "password") as imap:
        try:
            imap.append("Sent", SAVED)
        except Refused:
            return False
    return True


def sealed(host: Host, user: str) -> Counter[bytes]:
    """How many mails on this host are sealed to which key."""
    found: Counter[bytes] = Counter()
    for path in host.lab.stored(user):
        with open(path, "rb") as stream:
            found.update(dcrypt.inspect(stream.read(4096)).key_ids)
    return found


def copied(host: Host, user: str) -> bytes:
    """The id of the key in this host's copy."""
    found = PublicStore(host.lab.place.path("state", "public")).lookup(user)
    assert found is not None
    return found.key_id


def ok(answer: Answer) -> Answer:
    assert answer.status == "ok", answer.fields
    return answer


def sessions(host: Host, user: str) -> list[str]:
    """Whether the logins of the user on this host needed the password: "new", or "cached"."""
    with open(host.lab.place.path("log", "agent.log"), encoding="utf-8") as stream:
        lines = [line for line in stream if f"unlock: user=<{user}>" in line]
    return re.findall(r"result=ok, session=(\w+)", "\n".join(lines))


@pytest.mark.parametrize("where", ["one", "two"] if installed_version() < "2.4" else ["two"])
def test_a_login_while_the_copy_has_an_older_pair(hosts: tuple[Host, Host], where: str) -> None:
    """mailseal-replica hangs, and on another host the user gets a new key pair."""
    here, there = hosts if where == "two" else hosts[::-1]
    user = ANNA if where == "two" else BERTA
    ok(here.ask("enroll", user=user.encode(), password=b"password"))
    old = copied(there, user)
    deliver(there.lab, user)
    there.lab.wait_delivered()
    answers: list[Answer] = []

    def rotate() -> None:
        answers.append(here.ask("rotate", user=user.encode(), password=b"password"))

    rotation = threading.Thread(target=rotate)
    suspend(there.lab.replica.pid)
    try:
        rotation.start()
        wait_until(lambda: copied(here, user) != old, "the keyring has a new pair")
        for number in (2, 3):  # a new session, and a cached one
            assert len(login(there, user, "password")) == number
        deliver(there.lab, user)
        there.lab.wait_delivered()
        assert copied(there, user) == old and sealed(there, user) == {old: 4}
    finally:
        os.kill(there.lab.replica.pid, signal.SIGCONT)
        rotation.join()
    ok(answers[0])
    wait_until(lambda: copied(there, user) == copied(here, user), "the copy is current")
    assert len(login(there, user, "password")) == 5
    assert sealed(there, user) == {old: 4, copied(here, user): 1}


def test_after_a_rotation_all_hosts_seal_with_the_new_pair(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    user = GRETA
    ok(one.ask("enroll", user=user.encode(), password=b"password"))
    for _ in range(2):
        done = one.lab.mailseal("rotate", user, "--stdin", stdin=b"password\n")
        assert done.returncode == 0 and not done.stderr, done.stderr
        new = copied(two, user)
        assert new == copied(one, user)
        login(two, user, "password")
        assert sealed(two, user)[new] == 1


def test_changes_take_effect_at_the_next_login_on_another_host(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    user = HANNA
    name = user.encode()
    ok(one.ask("enroll", user=name, password=b"password"))
    made = ok(one.ask("app", user=name, password=b"password", label=b"phone"))
    app = made.text("code")
    for word in ("password", app):
        login(two, user, word)
    assert sessions(two, user) == ["new", "new"]
    # A password change: the site's database has the old one for a moment, then the new one.
    ok(one.ask("passwd", user=name, old=b"password", new=b"second"))
    with pytest.raises(Refused, match=TEMPORARY):
        Imap(two.lab.imap, user, "password")
    two.lab.dovecot.write_users({**two.lab.options.plain_users, user: "second"})
    with pytest.raises(Refused, match=WRONG):
        Imap(two.lab.imap, user, "password")
    login(two, user, "second")
    login(two, user, app)
    # A rotation, of which the next login has both pairs.
    ok(one.ask("rotate", user=name, password=b"second"))
    assert set(login(two, user, "second")) == {SAVED}
    assert len(sealed(two, user)) == 2
    # A lock: the next login opens the keyring anew.
    login(two, user, "second")
    assert sessions(two, user)[-1] == "cached"
    ok(one.ask("lock", user=name))
    login(two, user, "second")
    assert sessions(two, user)[-1] == "new"
    # An app password that was lost with a phone.
    login(two, user, app)
    ok(one.ask("revoke", user=name, slot=made.fields["slot"]))
    with pytest.raises(Refused, match=WRONG):
        Imap(two.lab.imap, user, app)
    assert set(login(two, user, "second")) == {SAVED}
    assert not in_clear(two.lab, user)


def test_an_agent_that_starts_while_the_database_is_down(site: tuple[Keys, Host, Host]) -> None:
    keys, one, two = site
    user = IDA
    ok(two.ask("enroll", user=user.encode(), password=b"password"))
    login(one, user, "password")
    keys.server.stop(signal.SIGKILL)
    try:
        one.lab.restart_agent()
        with pytest.raises(Refused, match=TEMPORARY):
            Imap(one.lab.imap, user, "password")
        with Imap(one.lab.imap, PLAIN, "password") as imap:
            imap.select()
        changed = one.ask("passwd", user=user.encode(), old=b"password", new=b"second")
        assert changed.text("class") == "StoreUnreachable", changed.fields
        deliver(one.lab, user)
        one.lab.wait_delivered()
        assert not in_clear(one.lab, user)
    finally:
        keys.server.start()
    wait_until(lambda: one.unlock(user) == "ok", "the agent has found the database")
    assert len(login(one, user, "password")) == 3
    # It hears of other hosts' changes, as an agent that was started before.
    wait_until(
        lambda: two.ask("lock", user=user.encode()).status == "ok",
        "the other agent has found the database",
    )
    login(one, user, "password")
    assert sessions(one, user)[-1] == "new"


@contextlib.contextmanager
def time_namespace(offset: int) -> Iterator[list[str]]:
    """The command with which a program starts in a time namespace with this offset."""
    command = ["unshare", "--time", "--fork", "--boottime", str(offset)]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this kernel has no time namespaces for this root")
    with subprocess.Popen([*command, "sleep", "infinity"]) as holder:
        try:
            wait_until(lambda: _command(holder.pid) == b"sleep", "the namespace is there")
            (pid,) = children(holder.pid)
            yield ["nsenter", f"--time=/proc/{pid}/ns/time"]
        finally:
            for pid in children(holder.pid):
                os.kill(pid, signal.SIGKILL)
            holder.kill()


def _command(parent: int) -> bytes:
    """What the only child of this process runs; empty if there is none."""
    for pid in children(parent):
        with open(f"/proc/{pid}/comm", "rb") as stream:
            return stream.read().strip()
    return b""


def test_a_copy_is_current_by_the_clock_of_the_machine(site: tuple[Keys, Host, Host]) -> None:
    """Dovecot and mailseal-replica run in containers with other times since the start."""
    lab = site[1].lab
    lab.replica.stop()
    lab.dovecot.stop()
    folder = lab.place.path("state", "public")
    copy = lease.Lease(folder)
    before = copy.until()
    plain = {"replica": lab.replica.command, "dovecot": lab.dovecot._server.command}
    with time_namespace(-1000) as behind, time_namespace(100_000) as ahead:
        try:
            lab.replica.command = [*ahead, *plain["replica"]]
            lab.dovecot._server.command = [*behind, *plain["dovecot"]]
            lab.start_replica()
            lab.dovecot.start()
            wait_until(lambda: copy.until() > before, "there is a new lease")
            wait_until(lambda: saves(site[1], PLAIN), "the copy is current")
            suspend(lab.replica.pid)
            assert copy.until() <= lease.Clock().now() + LONG_LEASE
            # With the time of its namespace, Dovecot would take this lease for valid.
            lease.write(folder, lease.Clock().now() - 1)
            assert not saves(site[1], PLAIN)
            os.kill(lab.replica.pid, signal.SIGCONT)
        finally:
            lab.dovecot.stop()
            lab.replica.stop()
            lab.replica.command, lab.dovecot._server.command = plain["replica"], plain["dovecot"]
            lab.start_replica()
            lab.dovecot.start()
    wait_until(lambda: saves(site[1], PLAIN), "the copy is current")
