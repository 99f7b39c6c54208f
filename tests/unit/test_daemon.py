# SPDX-License-Identifier: MIT
"""Dropping root: no privileges or groups of root are left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from mailseal.daemon import drop_root
os.setgroups([0, 4])
drop_root(60602, 60602)
print(os.getgroups(), os.getresuid(), os.getresgid())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can drop root")
def test_no_group_of_roots_is_left() -> None:
    lib = os.path.join(os.path.dirname(__file__), "..", "..", "lib")
    done = subprocess.run([sys.executable, "-c", CODE, lib], capture_output=True, text=True)
    assert done.stdout == f"[] {(60602,) * 3} {(60602,) * 3}\n", done.stderr
