# SPDX-License-Identifier: MIT
"""The number of tests for each Dovecot, in build/dovecot-versions.txt; .ci/run prints it."""

from __future__ import annotations

import os
import re

from tests.lab.dovecot import installed_version, series
from tests.lab.place import REPOSITORY, LabError

PATH = os.path.join(REPOSITORY, "build", "dovecot-versions.txt")

NATIVE: dict[str, int] = {}
"""Tests that passed inside a container, by the version there."""


def lines(passed: list[str], skipped: str | None) -> list[str]:
    """One line for each version.  passed: ids of tests; skipped: why there were no containers."""
    try:
        here = series(installed_version())
    except LabError:
        here = "none"
    told = []
    for version in ("2.3", "2.4"):
        outside = sum(name.startswith("tests/docker/") and _of(name) == version for name in passed)
        local = sum(name.startswith(("tests/e2e/", "tests/delivery/")) for name in passed)
        parts = []
        if version == here:
            parts.append(f"{local} on this machine")
        if version in NATIVE:
            parts.append(f"{NATIVE[version]} inside a container")
        parts.append(skipped or f"{outside} from outside, in containers")
        total = outside + NATIVE.get(version, 0) + (local if version == here else 0)
        told.append(f"Dovecot {version}: {total} tests passed ({', '.join(parts)})")
    return told


def _of(name: str) -> str:
    """The version that a test in containers uses."""
    match = re.search(r"\[(2\.[34])", name)
    if match:
        return match[1]
    return "2.3" if "2_3_hides" in name else "2.4"
