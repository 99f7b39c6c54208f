# SPDX-License-Identifier: MIT
"""A file system with fscrypt for tests, which are skipped if it cannot be made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.lab import LabError
from tests.lab.volume import SIZE, encrypting_volume


@contextlib.contextmanager
def volume_or_skip(size: int = SIZE) -> Iterator[str]:
    """encrypting_volume(); a LabError of the test itself is not a reason to skip."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(encrypting_volume(size))
        except LabError as exc:
            pytest.skip(f"no file system with fscrypt can be made here: {exc}")
        yield folder
