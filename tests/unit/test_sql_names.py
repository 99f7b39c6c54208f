# SPDX-License-Identifier: MIT
"""All users of a database are listed in pages: a statement has a time limit, a site has none."""

from __future__ import annotations

import pytest

from mailseal.keys import opening
from mailseal.keys.sql import database as database_module
from mailseal.keys.sql.database import Database
from mailseal.keys.sql.transaction import Row
from tests.lab.clusters import Keys
from tests.unit.replica.host import key
from tests.unit.store_contract import make


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6, 7])
def test_users_are_listed_in_pages(
    server: Keys, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    keyrings, public = opening.rows(server.open())
    users = [f"user{number}@example.org" for number in range(count)]
    for user in users:
        keyrings.create(make(user))
        public.publish(user, key())
    public.publish("left@example.org", key())
    public.withdraw("left@example.org")
    monkeypatch.setattr(database_module, "NAMES_AT_ONCE", 3)
    sizes = []
    real = Database.rows

    def rows(self: Database, text: str, *values: object) -> list[Row]:
        found = real(self, text, *values)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Database, "rows", rows)
    assert keyrings.users() == public.users() == users
    assert public.strangers(users[1:]) == users[:1]
    assert max(sizes) <= 3


def test_users_with_a_damaged_key_are_listed(server: Keys) -> None:
    public = opening.rows(server.open())[1]
    public.publish("user@example.org", key())
    with server.open().write("user@example.org") as write:
        write.execute("UPDATE mailseal_public_keys SET body = %s", b"damaged")
    assert public.users() == ["user@example.org"]
