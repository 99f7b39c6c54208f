# SPDX-License-Identifier: MIT
"""A PostgreSQL and a MariaDB with mailseal's tables, started when a test first needs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import clusters
from tests.lab.clusters import Keys


@pytest.fixture(scope="session")
def _folder() -> Iterator[str]:
    with clusters.folder() as path:
        yield path


@pytest.fixture(scope="session")
def postgresql(_folder: str) -> Iterator[Keys]:
    """Started once; a test that uses it empties it first."""
    keys = clusters.postgresql(_folder)
    yield keys
    keys.server.stop()


@pytest.fixture(scope="session")
def mariadb(_folder: str) -> Iterator[Keys]:
    """The same."""
    keys = clusters.mariadb(_folder)
    yield keys
    keys.server.stop()


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Keys:
    """Each of both, empty."""
    keys: Keys = request.getfixturevalue(request.param)
    keys.empty()
    return keys
