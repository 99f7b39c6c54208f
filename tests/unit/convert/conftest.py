# SPDX-License-Identifier: MIT
"""A Maildir for each form of conversion."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal.mailbox import convert, folder_lock, whole
from tests.unit.convert.box import FORMS, Box


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that a killed process has left is not waited for, and there are hundreds of runs."""
    monkeypatch.setattr(folder_lock, "_YOUNG", 0.0)
    monkeypatch.setattr(whole, "_PAUSE", 0.0)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """With threads, each run has another number of system calls, and steps would be left out."""
    monkeypatch.setattr(convert, "_AT_ONCE", 1)


@pytest.fixture(params=FORMS)
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    return Box(tmp_path / "Maildir", request.param)


@pytest.fixture
def sealing(tmp_path: Path) -> Box:
    return Box(tmp_path / "Maildir", "seal")
