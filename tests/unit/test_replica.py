# SPDX-License-Identifier: MIT
"""A replica of the public keys: its lease, and when all hosts have a change."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import MailsealError, StoreUnreachable, TemporaryError
from mailseal.keys import lease, opening
from mailseal.keys.names import file_name
from mailseal.keys.public import PublicStore
from mailseal.keys.sql import replica as replica_module
from mailseal.keys.sql.feed import Feed
from mailseal.keys.sql.hosts import Hosts, with_margin
from mailseal.keys.sql.public import SqlPublicKeys
from mailseal.keys.sql.replica import Replica
from mailseal.keys.stores import PublicKeys
from mailseal.login import local_keys
from tests.lab.clusters import Keys
from tests.unit.agent_process import running
from tests.unit.store_contract import USER
from tests.unit.test_move_store import in_database

LOG = logging.getLogger("test")
OTHER = "bob@example.org"


def key() -> PublicKey:
    return PrivateKey.generate().public


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return lease.Clock().now() + self.ahead


class Host:
    """A host's folder, and its replica."""

    def __init__(self, keys: Keys, folder: Path, name: str = "mx", seconds: int = 30) -> None:
        self.store = PublicStore(str(folder))
        self.store.prepare(replica=True)
        self.clock = Clock()
        self.database = keys.open()
        self.replica = Replica(
            self.database,
            self.store,
            name=name,
            seconds=seconds,
            log=LOG,
            now=self.clock.now,
        )

    def says_not_enrolled(self, user: str = USER) -> bool:
        """The answers of delivery and of the checkpassword program; they must be equal."""
        answers = set()
        for look_up in (
            lambda: self.store.lookup(user),
            lambda: local_keys.look_up(self.store.folder, user.encode()),
        ):
            try:
                answers.add(look_up() is None)
            except TemporaryError:
                answers.add(False)
        assert len(answers) == 1
        return answers.pop()


@pytest.fixture
def host(server: Keys, tmp_path: Path) -> Host:
    return Host(server, tmp_path / "public")


@pytest.fixture
def public(server: Keys) -> PublicKeys:
    return opening.rows(server.open())[1]


def test_before_the_first_copy_no_user_counts_as_not_enrolled(
    host: Host, public: PublicKeys
) -> None:
    assert not host.says_not_enrolled() and not host.replica.is_filled
    public.publish(OTHER, key())
    host.replica.step()
    assert host.says_not_enrolled() and host.replica.is_filled
    assert host.store.users() == [OTHER]


def test_all_changes_of_a_user_arrive(host: Host, public: PublicKeys) -> None:
    first, second = key(), key()
    public.publish(USER, first)
    host.replica.step()
    assert host.store.lookup(USER) == first and not host.replica.is_due()
    public.publish(USER, second)
    assert host.replica.is_due()
    host.replica.step()
    assert host.store.lookup(USER) == second
    public.suspend(USER)
    host.replica.step()
    assert host.store.is_suspended(USER)
    public.withdraw(USER)
    host.replica.step()
    assert host.says_not_enrolled() and not host.store.is_marked(USER)


def test_a_lease_starts_before_the_request(
    host: Host, public: PublicKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer takes longer than a lease, so it does not give a valid lease."""
    real = Feed.now

    def slow(self: Feed) -> object:
        found = real(self)
        public.publish(USER, key())
        host.clock.ahead += 31
        return found

    began = host.clock.now()
    monkeypatch.setattr(Feed, "now", slow)
    host.replica.step()
    until = lease.Lease(host.store.folder).until()
    assert until == pytest.approx(began + 30, abs=5)


def test_a_lease_ends(host: Host) -> None:
    host.clock.ahead = -30.01
    host.replica.step()
    assert not host.says_not_enrolled()
    host.clock.ahead = 0
    host.replica.step()
    assert host.says_not_enrolled()


@pytest.mark.parametrize("shown", ["12.34 5.00\n", ""])
def test_no_lease_if_lua_would_read_another_clock(
    host: Host, public: PublicKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    """lxcfs shows the uptime of the container in /proc/uptime; the lease would not expire."""
    host.replica.step()
    assert host.says_not_enrolled()
    public.publish(USER, key())
    (tmp_path / "uptime").write_text(shown)
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_UPTIME", str(tmp_path / "uptime"), raising=False)
        with pytest.raises(TemporaryError, match="/proc/uptime"):
            host.replica.step()
    assert lease.Lease(host.store.folder).until() == lease.NONE
    assert host.store.users() == [USER] and public.unaware(USER, of_key=True) == []
    host.replica.step()
    assert host.says_not_enrolled(OTHER)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"mailseal public keys, replica, version 2\n",
        lease.REPLICA_TEXT + b"00000000-0000-0000-0000-000000000000 99999999999.00\n",
        lease.REPLICA_TEXT + b"99999999999.00\n",
        lease.REPLICA_TEXT + lease.boot_id().encode() + b" 99999999999",
        lease.REPLICA_TEXT + lease.boot_id().encode() + b" 0.00\n",
    ],
)
def test_other_marks_are_not_a_lease(host: Host, text: bytes) -> None:
    host.replica.step()
    assert host.says_not_enrolled()
    Path(host.store.folder, lease.FOLDER_MARK).write_bytes(text)
    assert not host.says_not_enrolled()


def test_a_user_is_looked_up_after_the_lease_was_read(
    host: Host, public: PublicKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In between, a user is enrolled and the host confirms it: the user must be found."""
    host.replica.step()
    real = lease.Lease.until

    def until(self: lease.Lease) -> float:
        found = real(self)
        monkeypatch.undo()
        public.publish(USER, key())
        host.replica.step()
        return found

    monkeypatch.setattr(lease.Lease, "until", until)
    with pytest.raises(TemporaryError):
        host.store.lookup(USER)
    assert not public.unaware(USER, of_key=False)


def test_enrollment_waits_for_each_host_or_until_its_lease_expires(
    server: Keys, tmp_path: Path
) -> None:
    one, two = (Host(server, tmp_path / name, name) for name in ("one", "two"))
    clock = Clock()
    database = server.open()
    hosts = Hosts(database, clock.now)
    public = SqlPublicKeys(database, hosts)
    for host in (one, two):
        host.replica.step()
    public.publish(USER, key())
    assert public.unaware(USER, of_key=False) == ["one", "two"]
    one.replica.step()
    assert public.unaware(USER, of_key=False) == ["two"]
    assert two.says_not_enrolled()
    clock.ahead += with_margin(30) - 0.1
    assert public.unaware(USER, of_key=False) == ["two"]
    clock.ahead += 1
    assert public.unaware(USER, of_key=False) == []
    # A public key is used for sealing without a lease.
    assert public.unaware(USER, of_key=True) == ["two"]
    # The next enrollment need not wait: the host has been silent for that long.
    one.replica.step()
    hosts.all()
    public.publish(OTHER, key())
    assert public.unaware(OTHER, of_key=False) == ["one"]
    two.replica.step()
    assert public.unaware(OTHER, of_key=True) == ["one"]
    assert not two.says_not_enrolled()


def test_a_host_that_cannot_write_has_no_lease(
    host: Host, public: PublicKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.replica.step()
    public.publish(USER, key())
    host.clock.ahead = 5
    with monkeypatch.context() as patch:
        patch.setattr(PublicStore, "publish", _full)
        with pytest.raises(TemporaryError):
            host.replica.step()
    assert lease.Lease(host.store.folder).until() < host.clock.now() + 26
    assert public.unaware(USER, of_key=False) == ["mx"]
    host.replica.step()
    assert public.unaware(USER, of_key=False) == []


def _full(*_: object) -> None:
    raise TemporaryError("no room")


def test_many_changes_at_once_with_concurrent_changes(
    host: Host, public: PublicKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "_PAGE", 10)
    users = [f"user{number}@example.org" for number in range(35)]
    for user in users:
        public.publish(user, key())
    real = PublicStore.take
    latest = key()

    def take(self: PublicStore, changes: list[object]) -> None:
        real(self, changes)  # type: ignore[arg-type]
        public.publish(users[30], latest)

    monkeypatch.setattr(PublicStore, "take", take)
    host.replica.step()
    assert host.store.users() == sorted(users)
    assert host.store.lookup(users[30]) == latest


def test_a_database_that_has_lost_changes_removes_no_user(
    server: Keys, host: Host, public: PublicKeys
) -> None:
    """A standby that had not received all changes was promoted, and has got new changes."""
    for user in (USER, OTHER, "x" * 250):
        public.publish(user, key())
    host.replica.step()
    for user in (USER, "x" * 250):
        server.server.sql(f"DELETE FROM mailseal_public_keys WHERE name = '{user}'")
    server.server.sql("DELETE FROM mailseal_changes WHERE number <> 2")
    server.server.sql(
        "UPDATE mailseal_state SET last_change = 2, "
        "stamp = (SELECT stamp FROM mailseal_changes WHERE number = 2)"
    )
    public.publish("carol", key())
    host.replica.step()
    assert host.store.users() == [OTHER, "carol"]
    for user in (USER, "x" * 250):
        assert host.store.is_marked(user)
        with pytest.raises(TemporaryError):
            host.store.lookup(user)
    assert host.says_not_enrolled("dave") and not public.unaware("carol", of_key=True)


def test_a_folder_that_was_restored_under_a_running_replica(
    host: Host, public: PublicKeys, tmp_path: Path
) -> None:
    """The folder is as it was before the user was enrolled."""
    public.publish(OTHER, key())
    host.replica.step()
    shutil.copytree(host.store.folder, tmp_path / "backup")
    public.publish(USER, key())
    host.replica.step()
    shutil.rmtree(host.store.folder)
    shutil.copytree(tmp_path / "backup", host.store.folder)
    assert host.replica.is_due()
    host.replica.step()
    assert host.store.users() == sorted([USER, OTHER]) and not host.says_not_enrolled()


def test_a_folder_that_is_restored_during_a_step(
    host: Host, public: PublicKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.replica.step()
    shutil.copytree(host.store.folder, tmp_path / "backup")
    public.publish(USER, key())
    host.replica.step()
    public.publish(OTHER, key())
    real = PublicStore.publish

    def publish(self: PublicStore, user: str, key: PublicKey) -> None:
        real(self, user, key)
        shutil.rmtree(self.folder)
        shutil.copytree(tmp_path / "backup", self.folder)
        shutil.rmtree(tmp_path / "backup")

    with monkeypatch.context() as patch:
        patch.setattr(PublicStore, "publish", publish)
        with pytest.raises(TemporaryError):
            host.replica.step()
    host.replica.step()
    assert host.store.users() == sorted([USER, OTHER])


def _lose(server: Keys, last: int) -> None:
    """An older backup is restored: it has the changes up to this one."""
    server.server.sql(f"DELETE FROM mailseal_public_keys WHERE change_number > {last}")
    server.server.sql(f"DELETE FROM mailseal_changes WHERE number > {last}")
    server.server.sql(f"UPDATE mailseal_hosts SET applied = LEAST(applied, {last})")
    server.server.sql(
        f"UPDATE mailseal_state SET last_change = {last}, "
        f"stamp = (SELECT stamp FROM mailseal_changes WHERE number = {last})"
    )


def test_enrollment_waits_again_for_a_change_with_the_number_of_a_lost_one(
    server: Keys, host: Host
) -> None:
    clock = Clock()
    database = server.open()
    public = SqlPublicKeys(database, Hosts(database, clock.now))
    public.publish("carol", key())
    host.replica.step()
    public.publish(OTHER, key())
    assert public.unaware(OTHER, of_key=False) == ["mx"]
    clock.ahead += with_margin(30) + 1
    assert public.unaware(OTHER, of_key=False) == []
    _lose(server, 1)
    host.replica.step()  # the lease is valid again
    public.publish(USER, key())
    assert public.unaware(USER, of_key=False) == ["mx"]
    assert host.says_not_enrolled()


def test_the_silence_of_a_host_is_counted_anew_after_lost_changes(server: Keys, host: Host) -> None:
    """Its row is again as this process saw it long ago; the lost primary had newer ones."""
    clock = Clock()
    database = server.open()
    hosts = Hosts(database, clock.now)
    public = SqlPublicKeys(database, hosts)
    public.publish("carol", key())
    host.replica.step()
    public.publish(OTHER, key())
    hosts.all()
    clock.ahead += with_margin(30) + 1
    _lose(server, 1)
    public.publish(USER, key())
    assert public.unaware(USER, of_key=False) == ["mx"]


def test_a_beat_with_the_number_of_a_lost_one_is_a_sign_of_life(server: Keys, host: Host) -> None:
    clock = Clock()
    hosts = Hosts(server.open(), clock.now)
    host.replica.step()
    hosts.all()
    clock.ahead += 100
    server.server.sql("UPDATE mailseal_hosts SET beat = beat - 1, seen = '2026-01-01 00:00:00'")
    host.replica.step()
    assert [found.silent < 30 for found in hosts.all()] == [True]


def test_enrollment_fails_if_the_change_is_lost_while_it_waits(
    server: Keys, host: Host, public: PublicKeys
) -> None:
    public.publish("carol", key())
    public.publish(USER, key())
    host.replica.step()
    _lose(server, 1)
    for of_key in (False, True):
        with pytest.raises(TemporaryError):
            public.unaware(USER, of_key=of_key)
    public.withdraw(USER)
    with pytest.raises(TemporaryError):
        public.unaware(USER, of_key=False)
    assert public.unaware(USER, of_key=True) == ["mx"]


def test_a_step_with_answers_of_two_servers_fails(
    server: Keys, host: Host, public: PublicKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.replica.step()
    before = lease.Lease(host.store.folder).until()
    host.clock.ahead = 7
    real = Feed.now

    def cut(self: Feed) -> object:
        host.database.close()
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Feed, "now", cut)
        with pytest.raises(StoreUnreachable):
            host.replica.step()
    assert lease.Lease(host.store.folder).until() == before
    host.replica.step()
    assert lease.Lease(host.store.folder).until() > before


def test_copies_of_a_machine_are_different_hosts(server: Keys, tmp_path: Path) -> None:
    one = Host(server, tmp_path / "one")
    one.replica.step()
    boot = Path(one.store.folder, "host").read_text().split()[1]
    Path(one.store.folder, "host").write_text(
        Path(one.store.folder, "host").read_text().replace(boot, "another boot".replace(" ", "-"))
    )
    again = Host(server, tmp_path / "one")
    again.replica.step()
    assert len(Hosts(server.open()).all()) == 2


def test_containers_with_copies_of_one_folder_are_different_hosts(
    server: Keys, tmp_path: Path
) -> None:
    """They run on one kernel, so they have the same boot id."""
    Host(server, tmp_path / "one", "one").replica.step()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    Host(server, tmp_path / "two", "two").replica.step()
    assert [found.name for found in Hosts(server.open()).all()] == ["one", "two"]
    Host(server, tmp_path / "two", "two").replica.step()  # restarted
    assert len(Hosts(server.open()).all()) == 2


def test_a_shorter_lease_takes_effect_after_a_reboot(server: Keys, tmp_path: Path) -> None:
    """The longer lease may still be valid."""
    Host(server, tmp_path / "one", seconds=60).replica.step()
    Host(server, tmp_path / "one", seconds=10).replica.step()
    assert [found.lease for found in Hosts(server.open()).all()] == [60]


def test_running_hosts_are_not_removed(server: Keys, host: Host) -> None:
    host.replica.step()
    clock = Clock()
    hosts = Hosts(server.open(), clock.now)
    with pytest.raises(TemporaryError):
        hosts.forget("mx")
    clock.ahead += with_margin(30) + 1
    host.replica.step()
    with pytest.raises(TemporaryError):
        hosts.forget("mx")
    clock.ahead += with_margin(30) + 1
    assert hosts.forget("mx") == 1 and hosts.all() == []
    host.replica.step()  # it makes a new row
    assert [found.applied for found in hosts.all()] == [0]


def test_only_rows_from_before_a_reboot_are_removed_by_themselves(
    server: Keys, host: Host, public: PublicKeys
) -> None:
    """A silent host may be cut off, and still seal to a key."""
    public.publish(USER, key())
    host.replica.step()
    clock = Clock()
    hosts = Hosts(server.open(), clock.now)
    hosts.all()
    clock.ahead += 100_000
    assert hosts.forget_silent() == []
    assert [found.name for found in hosts.all()] == ["mx"]
    _rebooted(host, server).step()
    assert hosts.forget_silent() == ["mx"]
    assert [found.silent < 30 for found in hosts.all()] == [True]


def test_the_row_from_before_a_reboot_can_be_removed(server: Keys, host: Host) -> None:
    host.replica.step()
    clock = Clock()
    hosts = Hosts(server.open(), clock.now)
    hosts.all()
    clock.ahead += 20
    again = _rebooted(host, server)
    again.step()
    hosts.all()
    with pytest.raises(TemporaryError):
        hosts.forget("mx")
    clock.ahead += 20
    again.step()
    assert hosts.forget("mx") == 1
    assert len(hosts.all()) == 1


def _rebooted(host: Host, server: Keys) -> Replica:
    path = Path(host.store.folder, "host")
    path.write_text(path.read_text().replace(lease.boot_id(), "another-boot"))
    return Replica(server.open(), host.store, name="mx", seconds=30, log=LOG)


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


NAMESPACE = """\
import sys
sys.path.insert(0, sys.argv[1])
from mailseal.keys.public import PublicStore
from mailseal.login import local_keys
store = PublicStore(sys.argv[2])
print(store.lookup("nobody"), local_keys.look_up(sys.argv[2], b"nobody"))
"""


@pytest.mark.parametrize("offset", [-1000, 100000])
def test_a_reader_in_another_time_namespace(postgresql: Keys, tmp_path: Path, offset: int) -> None:
    """A lease has the time of the machine, not that of a container."""
    postgresql.empty()
    command = ["unshare", "--time", "--fork", "--boottime", str(offset)]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this kernel has no time namespaces for this root")
    host = Host(postgresql, tmp_path / "public")
    host.replica.step()
    lib = str(Path(opening.__file__).parents[2])
    reader = [*command, sys.executable, "-c", NAMESPACE, lib, host.store.folder]
    done = subprocess.run(reader, capture_output=True, text=True)
    assert done.stdout == "None None\n", done.stderr
    host.clock.ahead = -31
    host.replica.step()
    assert subprocess.run(reader, capture_output=True).returncode != 0


def test_many_hosts_many_changes(server: Keys, tmp_path: Path) -> None:
    """All confirmed changes are on disk, while other processes write."""
    found = [Host(server, tmp_path / str(number), str(number)) for number in range(3)]
    for host in found:
        host.replica.step()  # before its first step, a host is not in the table
    public = opening.rows(server.open())[1]
    failed: list[str] = []
    end = threading.Event()

    def copy(host: Host) -> None:
        while not end.is_set():
            try:
                host.replica.step()
            except MailsealError as exc:
                failed.append(str(exc))

    def enroll(number: int) -> None:
        for n in range(15):
            user = f"user{number}.{n}"
            public.publish(user, key())
            while public.unaware(user, of_key=True):
                pass
            for host in found:
                if not os.path.exists(f"{host.store.folder}/{file_name(user)}.json"):
                    failed.append(user)

    copiers = [threading.Thread(target=copy, args=(host,)) for host in found]
    writers = [threading.Thread(target=enroll, args=(number,)) for number in range(3)]
    for thread in (*copiers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    end.set()
    for thread in copiers:
        thread.join()
    assert failed == []
