# SPDX-License-Identifier: MIT
"""Which rows are one host: copies of a machine, containers, reboots."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mailseal.errors import TemporaryError
from mailseal.keys import lease
from mailseal.keys.sql.hosts import Hosts, with_margin
from mailseal.keys.sql.replica import Replica
from mailseal.keys.stores import PublicKeys
from tests.lab.clusters import Keys
from tests.unit.replica.host import LOG, Clock, Host, key
from tests.unit.store_contract import USER


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
