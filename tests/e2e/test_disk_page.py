# SPDX-License-Identifier: MIT
"""The commands of docs/disk.md, run unchanged, and what is on the disk afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docker.page import commands
from tests.lab.place import REPOSITORY
from tests.lab.volume import encrypting_volume

WORD = b"Rhabarberbarbara"
KEY_FOLDER = "/etc/credstore.encrypted"

# Differences from a real machine: the disk, the folders of systemd, systemctl, and no TPM2.
_SETUP = """\
set -e
mkdir -p "$T/units" "$T/creds" "$T/secret" "$T/run"
mount -o loop "$T/image" "$T/spool"
mount --bind "$T/secret" /var/lib/systemd
systemctl() { :; }
"""
_QUEUE = """\
mkdir -p "$T/spool/postfix/deferred/A"
chmod 700 "$T/spool/postfix/deferred"
echo "before Rhabarberbarbara" > "$T/spool/postfix/deferred/A/1"
sync -f "$T/spool"
"""
_LOCKED = """\
umount "$T/spool"
mount -o loop "$T/image" "$T/spool"
! grep -rq Rhabarber "$T/spool" 2>/dev/null
! touch "$T/spool/postfix/new" 2>/dev/null
"""
# What the unit does at boot.
_BOOT = """\
CREDENTIALS_DIRECTORY="$T/run"
systemd-creds decrypt --name=mail-disk "$T/creds/mail-disk" - > "$T/run/mail-disk"
START=$(sed -n "s/^ExecStart=.bin.sh -c '\\(.*\\)'$/\\1/p" "$T/units/mail-disk.service")
export CREDENTIALS_DIRECTORY
sh -c "$START"
grep -q Rhabarber "$T/spool/postfix/deferred/A/1"
[ "$(stat -c %a "$T/spool/postfix/deferred")" = 700 ]
echo "after Rhabarberbarbara" > "$T/spool/postfix/deferred/A/2"
rm "$T/spool/postfix/deferred/A/2"
umount "$T/spool"
"""


@pytest.fixture(autouse=True)
def _possible(fscrypt: None) -> None:
    if shutil.which("systemd-creds") is None:
        pytest.skip(
            "systemd-creds is not installed; the page is for Debian with Dovecot 2.3 or 2.4"
        )


def test_the_queue_moves_into_an_encrypted_folder(tmp_path: Path) -> None:
    image = tmp_path / "image"
    (tmp_path / "spool").mkdir()
    with image.open("wb") as stream:
        stream.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^encrypt", image], check=True)
    steps = ("disk-feature", "disk-key", "disk-queue")
    text = [commands("do", "2.3", (step,), "disk.md") for step in steps]
    assert all("/var/spool" in part or KEY_FOLDER in part for part in text)
    script = "".join([_SETUP, _QUEUE, text[0], text[1], text[2], _LOCKED, _BOOT])
    for old, new in (
        ("/usr/local/lib/mailseal/hooks", os.path.join(REPOSITORY, "hooks")),
        (KEY_FOLDER, f"{tmp_path}/creds"),
        ("/etc/systemd/system", f"{tmp_path}/units"),
        ("/var/spool", f"{tmp_path}/spool"),
        # In a container "auto" does not trust the place of the host's secret.
        ("systemd-creds encrypt ", "systemd-creds encrypt --with-key=host "),
        ("(findmnt -n -o SOURCE", "(findmnt -n -o SOURCE --nofsroot"),
    ):
        script = script.replace(old, new)
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "T": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert WORD not in image.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "given", "status"),
    [
        (["unlock", "/tmp"], b"short", 65),
        (["unlock", "/tmp"], bytes(65), 65),
        (["unlock", "/proc"], bytes(64), 75),
        (["unlock", "/nowhere"], bytes(64), 75),
        (["other", "/tmp"], bytes(64), 2),
    ],
)
def test_wrong_keys_and_folders(arguments: list[str], given: bytes, status: int) -> None:
    command = [os.path.join(REPOSITORY, "hooks", "mailseal-disk-key"), *arguments]
    done = subprocess.run(command, input=given, capture_output=True)
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr


def test_a_folder_with_files_is_not_changed() -> None:
    command = [os.path.join(REPOSITORY, "hooks", "mailseal-disk-key"), "encrypt"]
    with encrypting_volume(16 << 20) as volume:
        Path(volume, "full").mkdir()
        Path(volume, "full", "file").write_bytes(WORD)
        done = subprocess.run([*command, f"{volume}/full"], input=bytes(64), capture_output=True)
        assert done.returncode == 75
        assert b"it is not empty" in done.stderr
        assert Path(volume, "full", "file").read_bytes() == WORD
