# SPDX-License-Identifier: MIT
"""A host that compares its whole copy with an older database, and is stopped before the end."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from mailseal.errors import TemporaryError
from mailseal.keys.names import file_name
from mailseal.keys.sql.public import SqlPublicKeys
from mailseal.keys.sql.replica import Replica
from mailseal.keys.stores import PublicKeys
from tests.lab.clusters import Keys
from tests.unit.replica.host import LOG, OTHER, Host, key
from tests.unit.store_contract import USER
from tests.unit.test_database_backup import dump, load

THIRD = "carol@example.org"


def replica_of(host: Host, progress: list[str], *, stops: bool = False) -> Replica:
    def note() -> None:
        progress.append("page")
        if stops:
            raise TemporaryError("stopped")

    return Replica(host.database, host.store, name="mx", seconds=30, log=LOG, progress=note)


@pytest.fixture
def older(server: Keys, public: PublicKeys, tmp_path: Path) -> str:
    """A dump in which one user is unenrolled, another has an older key, and a third is unknown."""
    public.publish(USER, key())
    public.withdraw(USER)
    public.publish(OTHER, key())
    made = dump(server, tmp_path)
    os.rename(made, made + ".older")
    return made + ".older"


def test_the_newer_database_comes_back(
    server: Keys, host: Host, public: SqlPublicKeys, older: str, tmp_path: Path
) -> None:
    """Somebody has loaded the wrong dump, and loads the right one: all is compared again."""
    keys = {user: key() for user in (USER, OTHER, THIRD)}
    for user, made in keys.items():
        public.publish(user, made)
    host.replica.step()
    newer = dump(server, tmp_path)
    load(server, older)
    with pytest.raises(TemporaryError, match="stopped"):
        replica_of(host, [], stops=True).step()
    assert host.store.lookup(OTHER) != keys[OTHER], "the comparison had begun"
    load(server, newer)
    replica_of(host, []).step()
    assert {user: host.store.lookup(user) for user in keys} == keys
    assert public.unaware(OTHER, of_key=True) == []


def test_a_database_that_is_empty_comes_next(
    server: Keys, host: Host, public: SqlPublicKeys, older: str
) -> None:
    """No position of the copy is that of an empty database: its users are doubted."""
    public.publish(USER, key())
    host.replica.step()
    load(server, older)
    with pytest.raises(TemporaryError, match="stopped"):
        replica_of(host, [], stops=True).step()
    server.empty()
    replica_of(host, []).step()
    assert host.store.is_suspended(OTHER) and not host.says_not_enrolled(OTHER)


def test_many_users_whom_the_database_does_not_know(
    server: Keys, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is a sign of life for the watchdog; a second comparison has nothing to do."""
    users = [f"user{number}@example.org" for number in range(20)]
    for user in users:
        host.store.publish(user, key())
    progress: list[str] = []
    with caplog.at_level(logging.ERROR):
        replica_of(host, progress).step()
    assert len(progress) >= len(users)
    assert len([x for x in caplog.messages if "mail is deferred" in x]) == len(users)
    marks = [Path(host.store.folder, "enrolled", file_name(user)) for user in users]
    before = [os.stat(mark).st_ino for mark in marks]
    caplog.clear()
    replica_of(host, []).step()
    assert [os.stat(mark).st_ino for mark in marks] == before and not caplog.messages
    assert not any(host.says_not_enrolled(user) for user in users)
