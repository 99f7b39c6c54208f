# SPDX-License-Identifier: MIT
"""`pip install .`: the wheel contains the programs and all their files, and they start."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.lab.place import copy_known_files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")  # setuptools writes into it
    copy_known_files(str(source))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(source), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = source.glob("*.whl")
    return found


def test_the_wheel_is_complete(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    files = subprocess.run(
        ["git", "ls-files", "lib/mailseal"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name.removeprefix("lib/") for name in files} <= set(names)
    programs = {name.rpartition("/")[2] for name in names if "/scripts/" in name}
    assert programs == {path.name for path in (ROOT / "hooks").glob("mailseal*")}


def test_a_program_starts(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "v", system_site_packages=True, with_pip=True)
    pip: list[str | Path] = [tmp_path / "v/bin/pip", "install", "-q", "--no-deps", wheel]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([tmp_path / "v/bin/mailseal", "frob"], capture_output=True, text=True)
    assert done.returncode == 64
    assert done.stderr.startswith("mailseal: error: there is no command")
    done = subprocess.run(
        [tmp_path / "v/bin/mailseal", "-c", "/nonexistent", "status"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (78, 0)
