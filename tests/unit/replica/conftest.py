# SPDX-License-Identifier: MIT
"""A host, and the public keys in its database."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal.keys import opening
from mailseal.keys.stores import PublicKeys
from tests.lab.clusters import Keys
from tests.unit.replica.host import Host


@pytest.fixture
def host(server: Keys, tmp_path: Path) -> Host:
    return Host(server, tmp_path / "public")


@pytest.fixture
def public(server: Keys) -> PublicKeys:
    return opening.rows(server.open())[1]
