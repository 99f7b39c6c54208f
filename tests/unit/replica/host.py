# SPDX-License-Identifier: MIT
"""A host with a replica of the public keys, and its clock."""

from __future__ import annotations

import logging
from pathlib import Path

from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import TemporaryError
from mailseal.keys import lease
from mailseal.keys.public import PublicStore
from mailseal.keys.sql.replica import Replica
from mailseal.login import local_keys
from tests.lab.clusters import Keys, Pair
from tests.unit.store_contract import USER

LOG = logging.getLogger("test")
OTHER = "bob@example.org"


def key() -> PublicKey:
    return PrivateKey.generate().public


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return lease.Clock().now() + self.ahead


class Stopped(Clock):
    """A clock that only the test moves."""

    def now(self) -> float:
        return self.ahead


class Host:
    """A host's folder, and its replica."""

    def __init__(
        self, keys: Keys | Pair, folder: Path, name: str = "mx", seconds: int = 30
    ) -> None:
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
