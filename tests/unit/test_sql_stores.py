# SPDX-License-Identifier: MIT
"""The stores in PostgreSQL and MariaDB pass the contract, with real servers that are killed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from mailseal.errors import MailsealError
from mailseal.keys import opening
from mailseal.keys.stores import KeyringStore, KeyStores, PublicKeys
from tests.lab.clusters import Keys
from tests.unit.store_contract import (
    USER,
    Contract,
    KeyringStoreContract,
    PublicKeysContract,
    check_order_of_writes,
)


class Rows(Contract):
    leaves = False
    keys: Keys

    @pytest.fixture(autouse=True)
    def _emptied(self, server: Keys) -> None:
        self.keys = server

    def outlives_a_power_cut(self, write: Callable[[], object]) -> bool:
        before = self._content()
        write()
        self.keys.power_cut()
        return self._content() != before

    def cut_short(self, user: str, write: Callable[[], object]) -> None:
        """The server is killed before it commits; for odd names only the connection is cut."""
        database = self.keys.open()
        with pytest.MonkeyPatch.context() as patch:

            def cut(_self: object, cursor: Any) -> None:
                if user == USER:
                    self.keys.power_cut()
                else:
                    _hang_up(database.dialect.fileno(cursor.connection))

            patch.setattr(type(database.dialect), "notify", cut)
            with pytest.raises(MailsealError):
                write()

    def _content(self) -> str:
        return "".join(
            self.keys.server.sql(f"SELECT * FROM mailseal_{table} ORDER BY 1")
            for table in ("keyrings", "public_keys", "changes")
        )


class TestKeyrings(Rows, KeyringStoreContract):
    @pytest.fixture
    def open_store(self, server: Keys) -> Callable[[], KeyringStore]:
        return lambda: opening.rows(server.open())[0]

    def damage(self, store: KeyringStore, user: str) -> None:
        _replace(self.keys, "keyrings")


class TestPublicKeys(Rows, PublicKeysContract):
    @pytest.fixture
    def open_store(self, server: Keys) -> Callable[[], PublicKeys]:
        return lambda: opening.rows(server.open())[1]

    def lose_key(self, store: PublicKeys, user: str) -> None:
        self.keys.server.sql("UPDATE mailseal_public_keys SET body = NULL")

    def damage(self, store: PublicKeys, user: str) -> None:
        _replace(self.keys, "public_keys")


def _hang_up(fd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.shutdown(socket.SHUT_RDWR)


def _replace(keys: Keys, table: str) -> None:
    (body,) = keys.open().rows(f"SELECT body FROM mailseal_{table}")[0]
    other = bytes(body).replace(b"mailseal", b"mailsea1")
    assert keys.open().statement(f"UPDATE mailseal_{table} SET body = %s", other) == 1


@pytest.fixture
def stores(server: Keys) -> KeyStores:
    return KeyStores(*opening.rows(server.open()))


def test_order_of_writes(stores: KeyStores) -> None:
    check_order_of_writes(stores)


@pytest.mark.parametrize(
    ("of_the_role", "ours"),
    [
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ],
)
def test_a_commit_is_flushed_here_and_on_the_standby(
    postgresql: Keys, of_the_role: str, ours: str
) -> None:
    postgresql.server.sql(f"ALTER ROLE postgres SET synchronous_commit = {of_the_role}")
    try:
        assert postgresql.open().row("SHOW synchronous_commit") == (ours,)
    finally:
        postgresql.server.sql("ALTER ROLE postgres RESET synchronous_commit")
