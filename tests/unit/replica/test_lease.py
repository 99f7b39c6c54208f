# SPDX-License-Identifier: MIT
"""The lease of a replica: when it may say that a user is not enrolled, and who waits for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mailseal.errors import TemporaryError
from mailseal.keys import lease, opening
from mailseal.keys.public import PublicStore
from mailseal.keys.sql.feed import Feed
from mailseal.keys.sql.hosts import Hosts, with_margin
from mailseal.keys.sql.public import SqlPublicKeys
from mailseal.keys.stores import PublicKeys
from tests.lab.clusters import Keys
from tests.unit.replica.host import OTHER, Host, Stopped, key
from tests.unit.store_contract import USER


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
    assert until == pytest.approx(began + 30, abs=15)


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
    clock = Stopped()
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


def test_a_shorter_lease_takes_effect_after_a_reboot(server: Keys, tmp_path: Path) -> None:
    """The longer lease may still be valid."""
    Host(server, tmp_path / "one", seconds=60).replica.step()
    Host(server, tmp_path / "one", seconds=10).replica.step()
    assert [found.lease for found in Hosts(server.open()).all()] == [60]


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
