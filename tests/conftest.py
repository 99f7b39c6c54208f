# SPDX-License-Identifier: MIT
"""For all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.lab.process import interrupt_on_signals

# The same examples in each run, however long the machine takes for one, and no files.
hypothesis.settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")


def pytest_sessionstart() -> None:
    """SIGTERM, too, ends the tests in order: without this the servers of the labs would stay."""
    interrupt_on_signals()


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """A test that changes the umask of this process would make later ones fail elsewhere."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    after = os.umask(before)
    assert after == before, f"the test has left the umask {after:03o} behind"
