# SPDX-License-Identifier: MIT
"""A running agent, a vault, and a PostgreSQL and a MariaDB with mailseal's tables.

Servers are started when a test first needs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.login.vault import Vault
from tests.lab import clusters
from tests.lab.clusters import Keys
from tests.lab.place import let_others_in
from tests.unit.agent_process import AgentProcess, running
from tests.unit.vaults import open_vault


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """tmp_path, which other users of the machine can enter."""
    let_others_in(tmp_path)
    return tmp_path


@pytest.fixture
def agent(folder: Path) -> Iterator[AgentProcess]:
    """A running agent; its files are in `folder`."""
    with running(folder) as process:
        yield process


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """An empty vault; its files are in tmp_path."""
    return open_vault(tmp_path)
