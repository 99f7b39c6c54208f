# SPDX-License-Identifier: MIT
"""A login with a session is one job in a thread: each one takes longer than all its lookups."""

from __future__ import annotations

import pytest

from tests.unit.vaults import folder_of
from tests.unit.verbs.world import World, count_jobs


@pytest.mark.parametrize("behind", [{}, {"behind": b"1"}])
def test_a_login_with_a_session_is_one_job(
    enrolled: World, monkeypatch: pytest.MonkeyPatch, behind: dict[str, bytes]
) -> None:
    assert enrolled.login(b"pw", **behind) == "ok"
    jobs = count_jobs(monkeypatch)
    assert enrolled.login(b"pw", **behind) == "ok"
    assert jobs == ["look"]
    assert enrolled.derivations == 1


def test_a_public_key_that_is_missing_at_a_login_comes_back(enrolled: World) -> None:
    assert enrolled.login(b"pw", behind=b"1") == "ok"
    user = "alice@example.org"
    key = enrolled.vault.published(user)
    assert key is not None
    (folder_of(enrolled.vault.public) / f"{user}.json").unlink()
    assert enrolled.login(b"pw", behind=b"1") == "ok"
    assert enrolled.vault.published(user) == key
