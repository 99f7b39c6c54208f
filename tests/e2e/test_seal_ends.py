# SPDX-License-Identifier: MIT
"""How `mailseal seal` ends: Ctrl-C, and the hint about sessions without a key."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e import existing
from tests.e2e.existing import files, is_sealed, left_over
from tests.lab import Lab
from tests.lab.process import wait_until

USER, SECRET = "old@example.org", "password"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab({}, auth="behind-passwd-file", plain_users={USER: SECRET}) as made:
        yield made


def test_interrupted_with_ctrl_c_and_continued(lab: Lab) -> None:
    existing.fill(lab, USER, SECRET, ("INBOX", "Sent"))
    command = [os.path.join(lab.hooks, "mailseal"), "-c", lab.config_path]
    with subprocess.Popen(
        [*command, "seal", "--jobs", "1", "--limit-rate", "5K", USER],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    ) as running:
        wait_until(lambda: any(map(is_sealed, files(lab, USER))), "a mail is sealed", timeout=300)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        _, said = running.communicate(timeout=300)
    assert running.returncode == 130
    assert said == b"mailseal: interrupted: run the command again, and it continues\n"
    assert not all(map(is_sealed, files(lab, USER)))
    done = lab.mailseal("seal", USER)
    assert done.returncode == 0 and b"`doveadm kick USER`" in done.stderr
    assert all(map(is_sealed, files(lab, USER))) and left_over(lab, USER) == []
    done = lab.mailseal("seal", USER)
    assert (done.returncode, done.stderr) == (0, b"")
