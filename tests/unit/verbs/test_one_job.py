# SPDX-License-Identifier: MIT
"""A login with a session is one job in a thread: each one takes longer than all its lookups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from mailseal.login.thread_pools import ThreadPools
from tests.unit.vaults import folder_of
from tests.unit.verbs.world import World

_T = TypeVar("_T")


@pytest.mark.parametrize("behind", [{}, {"behind": b"1"}])
def test_a_login_with_a_session_is_one_job(
    enrolled: World, monkeypatch: pytest.MonkeyPatch, behind: dict[str, bytes]
) -> None:
    assert enrolled.login(b"pw", **behind) == "ok"
    jobs: list[str] = []

    for name in ("look", "quick", "run", "change", "wait"):
        real = getattr(ThreadPools, name)

        async def counted(
            self: ThreadPools, job: Callable[[], _T], name: str = name, real: Any = real
        ) -> _T:
            jobs.append(name)
            found: _T = await real(self, job)
            return found

        monkeypatch.setattr(ThreadPools, name, counted)
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
