# SPDX-License-Identifier: MIT
"""One lab for all tests that do not need their own; a new user for each test."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

import pytest

from tests.lab import Lab, LabError
from tests.lab.process import Server
from tests.lab.volume import encrypting_volume

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
    with _encrypting() as folder:
        yield folder


@pytest.fixture(scope="module")
def fscrypt() -> None:
    """Skip if a file system with fscrypt cannot be made."""
    with _encrypting(16 << 20):
        pass


@contextlib.contextmanager
def _encrypting(*size: int) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(encrypting_volume(*size))
        except LabError as exc:
            pytest.skip(f"no file system with fscrypt can be made here: {exc}")
        yield folder


@pytest.fixture
def sealer(lab: Lab) -> Iterator[Server]:
    """mailseal-sealer for the lab, not started."""
    command = [os.path.join(lab.hooks, "mailseal-sealer"), "-c", lab.config_path]
    server = Server("mailseal-sealer", command, lab.place.path("log", "sealer.log"))
    yield server
    if server.running:
        server.stop()
