# SPDX-License-Identifier: MIT
"""A signal while the lab starts something: what it has started is known, and is ended."""

from __future__ import annotations

import subprocess
import sys

from tests.lab.place import REPOSITORY

_SCRIPT = """
import os, signal
from tests.lab.process import interrupt_on_signals, interrupted_later
interrupt_on_signals()
try:
    with interrupted_later():
        with interrupted_later():
            os.kill(os.getpid(), signal.SIGTERM)
        print("inner", flush=True)
    print("after")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_signal_waits_until_the_block_has_ended() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{REPOSITORY}/lib:{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("inner\ninterrupted\n", "", 0)
