# SPDX-License-Identifier: MIT
"""Many changes, by several writers, for several hosts."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mailseal.errors import MailsealError
from mailseal.keys import opening
from mailseal.keys.copying import Change, Copying
from mailseal.keys.names import file_name
from mailseal.keys.sql import replica as replica_module
from mailseal.keys.stores import PublicKeys
from tests.lab.clusters import Keys
from tests.unit.replica.host import Host, key


def test_many_changes_at_once_with_concurrent_changes(
    host: Host, public: PublicKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "_PAGE", 10)
    users = [f"user{number}@example.org" for number in range(35)]
    for user in users:
        public.publish(user, key())
    real = Copying.take
    latest = key()

    def take(self: Copying, changes: list[Change]) -> None:
        real(self, changes)
        public.publish(users[30], latest)

    monkeypatch.setattr(Copying, "take", take)
    host.replica.step()
    assert host.store.users() == sorted(users)
    assert host.store.lookup(users[30]) == latest


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
