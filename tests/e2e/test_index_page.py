# SPDX-License-Identifier: MIT
"""The commands of docs/index-privacy.md that make a file system, run unchanged."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mailseal.index import fscrypt
from tests.docker.page import commands

PAGE = "index-privacy.md"
_GENERATOR = "/usr/lib/systemd/system-generators/systemd-fstab-generator"

# Differences from a real machine: paths, /etc/fstab, and systemd, which may be missing.
_SETUP = """\
set -e
mount --bind "$FSTAB" /etc/fstab
systemctl() { :; }
systemd-tmpfiles() { :; }
"""


@pytest.fixture(scope="module")
def loop_devices(fscrypt: None) -> None:
    """Skip if the page's volume cannot be made."""
    if os.environ.get("MAILSEAL_VOLUME"):
        pytest.skip("no file system with fscrypt can be made here: MAILSEAL_VOLUME is set")


def _run(folder: Path, step: str, check: str) -> None:
    """Run in a separate mount namespace, so that nothing stays mounted."""
    text = commands("do", "2.3", (step,), PAGE)
    for path in ("/var/lib/mailseal", "/run/mailseal"):
        text = text.replace(path, f"{folder}/mailseal")
    assert f"{folder}/mailseal" in text
    (folder / "mailseal").mkdir(exist_ok=True)
    fstab = folder / "fstab"
    fstab.write_text("")
    subprocess.run(
        ["unshare", "--mount", "bash", "-c", f"{_SETUP}{text}{check}"],
        check=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "FSTAB": str(fstab)},
    )


_ENCRYPTS = """
python3 - {folder}/mailseal/index <<'END'
import os, sys
sys.path.insert(0, {lib!r})
from mailseal.index import fscrypt
fd = os.open(sys.argv[1], os.O_RDONLY)
key = fscrypt.add_key(fd, bytes(fscrypt.KEY_SIZE))
os.mkdir(sys.argv[1] + "/user")
user = os.open(sys.argv[1] + "/user", os.O_RDONLY)
fscrypt.set_policy(user, key)
os.close(user)
assert fscrypt.remove_key(fd, key) is fscrypt.State.ABSENT
END
"""


def _encrypts(folder: Path) -> str:
    lib = os.path.dirname(os.path.dirname(os.path.dirname(fscrypt.__file__)))
    return _ENCRYPTS.format(folder=folder, lib=lib)


def _units(folder: Path) -> dict[str, str]:
    """The mount units that systemd makes of the fstab at boot."""
    target = folder / "units"
    target.mkdir()
    subprocess.run(
        [_GENERATOR, target, target, target],
        check=True,
        env={"SYSTEMD_FSTAB": str(folder / "fstab")},
    )
    return {path.name: path.read_text() for path in target.glob("*.mount")}


@pytest.mark.usefixtures("loop_devices")
def test_a_file_system_of_its_own(tmp_path: Path) -> None:
    _run(tmp_path, "volume", _encrypts(tmp_path))
    (unit,) = _units(tmp_path).values()
    assert "Before=mailseal-agent.service" in unit, "otherwise the agent does not find it at boot"
    assert list((tmp_path / "units").glob("local-fs.target.wants/*.mount"))


@pytest.mark.usefixtures("loop_devices")
def test_the_feature_is_turned_on_later(tmp_path: Path) -> None:
    """While the file system is mounted, and with files on it."""
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^encrypt", image], check=True)
    (tmp_path / "mailseal").mkdir()
    global_setup = f"mount -o loop {image} {tmp_path}/mailseal\nmkdir {tmp_path}/mailseal/index\n"
    text = commands("do", "2.3", ("feature",), PAGE)
    text = text.replace("/var/lib/mailseal", f"{tmp_path}/mailseal")
    subprocess.run(
        ["unshare", "--mount", "bash", "-ec", global_setup + text + _encrypts(tmp_path)],
        check=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )


def test_memory_with_a_limit(tmp_path: Path) -> None:
    for name in ("cache", "tmp"):
        (tmp_path / "mailseal" / name).mkdir(parents=True)
    old = tmp_path / "mailseal" / "cache" / "old"
    old.write_text("text")
    check = ""
    for name in ("cache", "tmp"):
        shown = f"$(findmnt -n -b -o FSTYPE,SIZE {tmp_path}/mailseal/{name} | xargs)"
        check += f'[ "{shown}" = "tmpfs {1 << 30}" ]\n'
    _run(tmp_path, "memory", check)
    units = _units(tmp_path)
    assert len(units) == 2
    for unit in units.values():  # systemd-tmpfiles-setup.service comes later, and sets the owner
        assert "Before=local-fs.target" in unit and "Type=tmpfs" in unit
    assert not old.exists()  # it would be hidden by the new file system
