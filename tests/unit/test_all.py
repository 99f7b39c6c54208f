# SPDX-License-Identifier: MIT
"""tests/all runs two parts at the same time, and fails if one of them fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.place import REPOSITORY
from tests.lab.process import wait_until

# Instead of pytest: each part waits until the other one has begun.
PYTHON = """#!/bin/bash
case "$*" in *tests/unit*) me=2 other=1;; *) me=1 other=2;; esac
echo "$*" >began-$me
until [ -e began-$other ]; do sleep 0.05; done
. ./part-$me
"""
PASSED = "echo '== 7 passed in 1.00s =='"
FAILED = "echo 'FAILED tests/x.py::test_y'; echo '== 1 failed, 6 passed in 1.00s =='; exit 1"
Run = Callable[[str, str], "subprocess.Popen[str]"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """tests/all in a tree with one test file in each folder, and PYTHON."""
    for path in Path(REPOSITORY, "tests").glob("*/test_*.py"):
        folder = tmp_path / "tests" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test_x.py").touch()
    shutil.copy(Path(REPOSITORY, "tests", "all"), tmp_path / "tests")
    (tmp_path / "lib").mkdir()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


@pytest.fixture
def run(tree: Path) -> Run:
    def start(first: str, second: str) -> subprocess.Popen[str]:
        (tree / "part-1").write_text(first)
        (tree / "part-2").write_text(second)
        return subprocess.Popen(
            [tree / "tests" / "all"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(PASSED, PASSED, 0), (FAILED, PASSED, 1), (PASSED, FAILED, 1), ("kill -9 $$", PASSED, 1)],
)
def test_status_and_summary(tree: Path, run: Run, first: str, second: str, status: int) -> None:
    process = run(first, second)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == status, said
    begun = "".join((tree / f"began-{part}").read_text() for part in "12")
    folders = {path.name for path in (tree / "tests").iterdir() if path.is_dir()}
    assert sorted(word for word in begun.split() if word.startswith("tests/")) == sorted(
        f"tests/{name}" for name in folders
    )
    end = said.rpartition("\n\n")[2]
    assert end.count("FAILED tests/x.py") == [first, second].count(FAILED)
    assert f"part 2: {'7' if second == PASSED else '1 failed, 6'} passed in 1.00s" in end


def test_a_folder_in_no_part_is_an_error(tree: Path, run: Run) -> None:
    (tree / "tests" / "new").mkdir()
    (tree / "tests" / "new" / "test_x.py").touch()
    process = run(PASSED, PASSED)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 1
    assert said == "mailseal: error: no part of tests/all has tests/new\n"
    assert not (tree / "began-1").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_parts(tree: Path, run: Run, number: signal.Signals) -> None:
    ends = "trap 'touch ended-$me; exit 2' TERM; touch waits-$me; while :; do sleep 0.05; done"
    process = run(ends, ends)
    wait_until(lambda: all((tree / f"waits-{part}").exists() for part in "12"), "both run")
    os.kill(process.pid, number)
    process.communicate(timeout=180)
    assert process.returncode == 130
    assert all((tree / f"ended-{part}").exists() for part in "12")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a file system")
def test_a_tmp_that_is_closed_to_other_users_is_an_error(tree: Path) -> None:
    mounts = f"mount --bind {tree} /mnt && mount -t tmpfs -o mode=755 tmpfs /tmp"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mounts} && exec /mnt/tests/all"],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "mailseal: error: other users cannot write to /tmp",
        "mailseal: hint: chmod 1777 /tmp",
    ]
    assert not (tree / "began-1").exists()
