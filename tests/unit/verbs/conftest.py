# SPDX-License-Identifier: MIT
"""The verbs with the policy of a test, and with one enrolled user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.login.policy import Policy
from tests.unit.verbs.world import USER, World


@pytest.fixture
def policy() -> Policy:
    return Policy()


@pytest.fixture
def world(tmp_path: Path, policy: Policy) -> Iterator[World]:
    world = World(tmp_path, policy)
    yield world
    world.pools.stop()


@pytest.fixture
def enrolled(world: World) -> World:
    assert world.status_of("enroll", user=USER, password=b"pw") == "ok"
    world.derivations = 0
    return world
