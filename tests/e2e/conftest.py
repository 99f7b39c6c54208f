# SPDX-License-Identifier: MIT
"""One lab for all tests that do not need their own; a new user for each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.process import Server
from tests.volumes import volume_or_skip

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """All servers, with the keyring as the only password check.

    A test may stop and start servers, but must leave them running.
    """
    with Lab({}) as made:
        yield made


@pytest.fixture(scope="session")
def behind_lab() -> Iterator[Lab]:
    """All servers, behind a passwd-file; plain@example.org is not enrolled."""
    with Lab(auth="behind-passwd-file", plain_users={"plain@example.org": "password"}) as made:
        yield made


@pytest.fixture
def user(lab: Lab) -> str:
    """A user of the shared lab with an empty mailbox and the password `password`."""
    name = f"user{next(_numbers)}@example.org"
    lab.add_user(name)
    return name


@pytest.fixture(scope="module")
def volume() -> Iterator[str]:
    """An empty folder on a file system with fscrypt."""
    with volume_or_skip() as folder:
        yield folder


@pytest.fixture(scope="module")
def fscrypt() -> None:
    """Skip if a file system with fscrypt cannot be made."""
    with volume_or_skip(16 << 20):
        pass


@pytest.fixture
def sealer(lab: Lab) -> Iterator[Server]:
    """mailseal-sealer for the lab, not started."""
    command = [os.path.join(lab.hooks, "mailseal-sealer"), "-c", lab.config_path]
    server = Server("mailseal-sealer", command, lab.place.path("log", "sealer.log"))
    yield server
    if server.running:
        server.stop()
