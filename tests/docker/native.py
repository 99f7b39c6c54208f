# SPDX-License-Identifier: MIT
"""Runs tests in a container with the other Debian, in parallel to the other tests."""

from __future__ import annotations

import contextlib
import subprocess

from tests.docker.site import SOURCE, Site

COPY = "/opt/mailseal"
RUNS = (
    "tests/e2e",
    "tests/web",
    # Those with a PostgreSQL and a MariaDB server, and Debian's drivers for them.
    "tests/unit/test_sql_stores.py",
    "tests/unit/test_move_store.py",
    "tests/unit/replica",
)
"""What runs on both Debians.  docs/tested.md names nothing else for the other one."""

LOOP_DEVICES = (
    "[ -e /dev/loop-control ] || "
    "{ mknod /dev/loop-control c 10 237; for n in {0..15}; do mknod /dev/loop$n b 7 $n; done; }"
)
"""Makes the device files, as udev would."""


class Native:
    """A running test run; `wait` returns its output."""

    def __init__(self, site: Site) -> None:
        self.site = site
        site.run(LOOP_DEVICES)
        site.run(
            f"rm -rf {COPY}; mkdir {COPY}; "
            f"tar -C {SOURCE} -c --exclude=./.venv --exclude=./.git --exclude=./build"
            f" --exclude=__pycache__ . | tar -C {COPY} -x"
        )
        command = (
            f"exec python3 -m pytest {' '.join(RUNS)} -q -rs --maxfail=15 -p no:cacheprovider 2>&1"
        )
        self._process = subprocess.Popen(
            ["docker", "exec", "-w", COPY, site.container, "bash", "-c", command],
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self, seconds: float) -> str:
        """Wait for the end, and end it after this time; returns the output of pytest."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.communicate(timeout=seconds)[0]
        self._process.kill()
        return self._process.communicate()[0]

    def stop(self) -> None:
        """End it; the container is removed next."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
