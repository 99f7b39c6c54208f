# SPDX-License-Identifier: MIT
"""tests/bootstrap: fast if nothing is missing, careful otherwise.

apt-get and dpkg are replaced by scripts in PATH: the tests check the steps before and
after them.  .ci/run on a new machine runs the real ones.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lab.place import REPOSITORY, let_others_in

POLICY = "/usr/sbin/policy-rc.d"


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder with scripts: no package is installed, and apt installs and prints all."""
    folder = tmp_path / "bin"
    folder.mkdir()
    let_others_in(folder)
    stand_in(folder, "dpkg-query", "exit 1")
    stand_in(folder, "dpkg", "exit 0")
    stand_in(folder, "debconf-set-selections", f"cat >>{tmp_path}/debconf")
    stand_in(
        folder,
        "apt-get",
        f'case " $* " in *" -s "*) echo "Inst something";; *" install "*)\n'
        f"cat {POLICY} >{tmp_path}/policy; {POLICY}; echo status $? >>{tmp_path}/policy\n"
        f"exit ${{APT_STATUS:-0}};; esac",
    )
    return folder


def stand_in(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def bootstrap(
    folder: Path | None = None, what: str = "lab", *, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    path = f"{folder}:" if folder else ""
    return subprocess.run(
        ["/bin/bash", os.path.join(REPOSITORY, "tests", "bootstrap"), what],
        env={"PATH": f"{path}/usr/sbin:/usr/bin:/sbin:/bin", **(environ or {})},
        capture_output=True,
        text=True,
    )


def policy() -> tuple[int, int, int, bytes] | None:
    """The state of policy-rc.d, which must not change."""
    try:
        status = os.stat(POLICY)
    except FileNotFoundError:
        return None
    with open(POLICY, "rb") as stream:
        return status.st_ino, status.st_mode, status.st_mtime_ns, stream.read()


def test_if_nothing_is_missing_it_prints_nothing_and_installs_nothing(tmp_path: Path) -> None:
    bootstrap(what="test")
    stand_in(tmp_path, "apt-get", f"touch {tmp_path}/was-run; exit 1")
    done = bootstrap(tmp_path, what="test")
    assert not (tmp_path / "was-run").exists()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("status", [0, 100])
def test_no_service_may_start_while_apt_runs(bin_folder: Path, tmp_path: Path, status: int) -> None:
    before = policy()
    done = bootstrap(bin_folder, environ={"APT_STATUS": str(status)})
    assert done.returncode == (1 if status else 0)
    assert done.stderr.startswith("bootstrap: installing with apt, starting no service: postfix ")
    assert (tmp_path / "policy").read_text().endswith("exit 101\nstatus 101\n")
    assert policy() == before
    assert not os.path.exists(f"{POLICY}.saved-by-mailseal")
    if not os.path.exists("/etc/postfix/main.cf"):
        assert "No configuration" in (tmp_path / "debconf").read_text()


def test_files_of_a_killed_run_are_restored(bin_folder: Path) -> None:
    before = policy()
    good = (bin_folder / "apt-get").read_text()
    stand_in(bin_folder, "apt-get", 'case " $* " in *" install -y "*) kill -9 $PPID;; esac')
    assert bootstrap(bin_folder).returncode == -9
    assert policy() != before
    (bin_folder / "apt-get").write_text(good)
    assert bootstrap(bin_folder).returncode == 0
    assert policy() == before


def test_nothing_is_done_if_apt_would_remove_a_package(bin_folder: Path, tmp_path: Path) -> None:
    stand_in(
        bin_folder,
        "apt-get",
        f'case " $* " in *" -s "*) echo "Remv exim4 [4.96]";; *" install "*) touch {tmp_path}/did;;'
        " esac",
    )
    done = bootstrap(bin_folder)
    assert done.returncode == 1
    (_, error, hint) = done.stderr.splitlines()
    assert error.startswith("mailseal: error: installing would remove these packages")
    assert error.endswith(": exim4 ")
    assert hint.startswith("mailseal: hint: ")
    assert not (tmp_path / "did").exists()


def test_not_root_is_told_what_to_install(bin_folder: Path) -> None:
    stand_in(bin_folder, "id", "echo 1000")
    done = bootstrap(bin_folder)
    assert done.returncode == 1
    (error, hint) = done.stderr.splitlines()
    assert error.startswith("mailseal: error: these packages are missing: postfix dovecot-core ")
    assert hint.startswith("mailseal: hint: as root: apt-get install postfix dovecot-core ")
