# SPDX-License-Identifier: MIT
"""For all tests."""

from __future__ import annotations

from tests.lab.process import interrupt_on_signals


def pytest_sessionstart() -> None:
    """SIGTERM, too, ends the tests in order: without this the servers of the labs would stay."""
    interrupt_on_signals()
