# SPDX-License-Identifier: MIT
"""One lab for all tests that do not need one of their own; a fresh user for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.lab import Lab

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The whole stack, mailseal's keyring as the only password check.

    A test may stop and start parts of it, but leaves it running.
    """
    with Lab({}) as made:
        yield made


@pytest.fixture(scope="session")
def behind_lab() -> Iterator[Lab]:
    """The stack behind a passwd-file, with plain@example.org, who is not enrolled."""
    with Lab(auth="behind-passwd-file", plain_users={"plain@example.org": "password"}) as made:
        yield made


@pytest.fixture
def user(lab: Lab) -> str:
    """A user of the shared lab whose mailbox is empty; the password is `password`."""
    name = f"user{next(_numbers)}@example.org"
    lab.add_user(name)
    return name
