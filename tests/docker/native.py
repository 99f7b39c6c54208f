# SPDX-License-Identifier: MIT
"""tests/e2e inside a container of the other Debian, beside what the tests outside do."""

from __future__ import annotations

import subprocess

from tests.docker.site import SOURCE, Site

COPY = "/opt/mailseal"


class Native:
    """A run of the suite that has begun; `wait` gives what it said."""

    def __init__(self, site: Site) -> None:
        self.site = site
        # What udev would make, for tests/audit.
        nodes = (
            "mknod /dev/loop-control c 10 237; for n in {0..15}; do mknod /dev/loop$n b 7 $n; done"
        )
        site.run(f"[ -e /dev/loop-control ] || {{ {nodes}; }}")
        site.run(
            f"rm -rf {COPY}; mkdir {COPY}; "
            f"tar -C {SOURCE} -c --exclude=./.venv --exclude=./.git --exclude=./build"
            f" --exclude=__pycache__ . | tar -C {COPY} -x"
        )
        command = "exec python3 -m pytest tests/e2e -q -rs -p no:cacheprovider 2>&1"
        self._process = subprocess.Popen(
            ["docker", "exec", "-w", COPY, site.container, "bash", "-c", command],
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self, seconds: float) -> str:
        """What pytest has said, when it is done."""
        return self._process.communicate(timeout=seconds)[0]

    def stop(self) -> None:
        """End it; the container goes next, and takes the rest along."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
