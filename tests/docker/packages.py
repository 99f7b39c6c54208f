# SPDX-License-Identifier: MIT
"""The .deb of this checkout, and a newer one, built once for all tests that install them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.docker.site import Site
from tests.lab.place import copy_known_files


def build(folder: Path, version: str | None = None, **environ: str) -> Path:
    """`make deb` in a copy of the files in git."""
    folder.mkdir()
    copy_known_files(str(folder))
    if version:
        log = folder / "debian" / "changelog"
        log.write_text(log.read_text().replace("(0.1.0)", f"({version})", 1))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    done = subprocess.run(
        ["make", "deb"], cwd=folder, capture_output=True, text=True, env={**os.environ, **environ}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (folder / "build" / "deb").glob("*.deb")
    return made


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("deb") / "mailseal")


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("deb") / "mailseal", "0.1.1")


def install(site: Site, package: Path) -> str:
    """What dpkg says."""
    with package.open("rb") as stream:
        site.run("cat > /root/mailseal.deb", stdin=stream.read())
    return site.run("DEBIAN_FRONTEND=noninteractive dpkg -i /root/mailseal.deb 2>&1")
