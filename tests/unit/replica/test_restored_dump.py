# SPDX-License-Identifier: MIT
"""Hosts while an older dump of the database is loaded, in the order of docs/keys.md."""

from __future__ import annotations

from pathlib import Path

from mailseal.keys import lease
from mailseal.keys.sql.hosts import Hosts
from mailseal.keys.sql.public import SqlPublicKeys
from tests.lab.clusters import Keys
from tests.unit.replica.host import OTHER, Host, key
from tests.unit.store_contract import USER
from tests.unit.test_database_backup import dump, load


def wait_for_the_lease(host: Host) -> None:
    """mailseal-replica is stopped, and `replica.lease` seconds pass."""
    assert host.says_not_enrolled(USER)
    lease.write(host.store.folder, lease.Clock().now() - 1)


def test_no_host_takes_a_user_for_not_enrolled(server: Keys, tmp_path: Path) -> None:
    """One was unenrolled since the dump, one is enrolled after it; the dump lacks a host."""
    listed = Host(server, tmp_path / "listed", "listed")
    listed.replica.step()
    database = server.open()
    public = SqlPublicKeys(database, Hosts(database))
    first = key()
    public.publish(USER, first)
    listed.replica.step()
    dumped = dump(server, tmp_path)
    newer = Host(server, tmp_path / "newer", "newer")
    public.withdraw(USER)
    hosts = [listed, newer]
    for host in hosts:
        host.replica.step()
        wait_for_the_lease(host)
    load(server, dumped)
    # Whoever enrolls a user now does not know of the newer host, and does not wait for it.
    public.publish(OTHER, key())
    assert public.unaware(OTHER, of_key=False) == ["listed"]
    assert not [host for host in hosts for user in (USER, OTHER) if host.says_not_enrolled(user)]
    for host in hosts:
        host.replica.step()
        assert host.store.lookup(USER) == first and host.store.users() == [USER, OTHER]
    assert public.unaware(OTHER, of_key=False) == []
