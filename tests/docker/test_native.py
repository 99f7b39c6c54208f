# SPDX-License-Identifier: MIT
"""The tests that run on both Debians, and the demo, on the other Debian, in a container."""

from __future__ import annotations

import re

from tests.docker import tally
from tests.docker.native import COPY, Native


def test_end_to_end_suite_on_the_other_debian(native: Native) -> None:
    """With the Dovecot, PostgreSQL and MariaDB versions that this machine does not have.

    Only tests of features that this version, or this kernel, does not have are skipped, and those
    of `make soak-hosts`, with a reason.
    """
    said = native.wait(2400)  # a run that hangs is ended; then its output shows where
    summary = said.strip().splitlines()[-1]
    # "211 passed, 2 skipped in 90.11s (0:01:30)", and nothing failed, no error
    match = re.match(r"(\d+) passed(, \d+ skipped)?(, \d+ warnings?)? in ", summary)
    assert match, said[-6000:]
    reasons = [line for line in said.splitlines() if line.startswith("SKIPPED")]
    allowed = (
        "2.3",
        "2.4",
        "no file system with fscrypt can be made here",
        "make soak-hosts runs it",
        "no time namespaces for this root",
    )
    assert all(any(words in line for words in allowed) for line in reasons), reasons
    tally.NATIVE[native.site.version] = int(match[1])
    assert int(match[1]) > 150, summary


def test_demo_on_the_other_debian(native: Native) -> None:
    said = native.site.run(f"cd {COPY} && make demo 2>&1")
    assert f"Dovecot {native.site.version}." in said
    assert "checks succeeded" in said
