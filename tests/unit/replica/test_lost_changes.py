# SPDX-License-Identifier: MIT
"""A database or a folder that was restored: changes with the numbers of lost ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import StoreUnreachable, TemporaryError
from mailseal.keys import lease
from mailseal.keys.public import PublicStore
from mailseal.keys.sql.feed import Feed
from mailseal.keys.sql.hosts import Hosts, with_margin
from mailseal.keys.sql.public import SqlPublicKeys
from mailseal.keys.stores import PublicKeys
from tests.lab.clusters import Keys
from tests.unit.replica.host import OTHER, Clock, Host, key
from tests.unit.store_contract import USER


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
