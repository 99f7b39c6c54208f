# SPDX-License-Identifier: MIT
"""A file system with fscrypt for a test: an ext4 image on a loop device.

Where no loop device can be had (a container without one), MAILSEAL_VOLUME names a folder on such a
file system, for example one that the host has mounted and bound into the container.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

from mailseal.index import fscrypt
from tests.lab.place import LabError

SIZE = 256 << 20


@contextlib.contextmanager
def encrypting_volume(size: int = SIZE) -> Iterator[str]:
    """An empty folder on it, open to all; LabError with the reason if there can be none."""
    if given := os.environ.get("MAILSEAL_VOLUME"):
        folder = tempfile.mkdtemp(prefix="volume-", dir=given)
        os.chmod(folder, 0o711)
        try:
            _check(folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    with tempfile.TemporaryDirectory(prefix="mailseal-volume-", dir="/tmp") as around:
        os.chmod(around, 0o711)
        image, folder = f"{around}/image", f"{around}/volume"
        os.mkdir(folder)
        with open(image, "wb") as stream:
            stream.truncate(size)
        _run("mkfs.ext4", "-q", "-O", "encrypt", image)
        _run("mount", "-o", "loop", image, folder)
        try:
            os.chmod(folder, 0o711)
            _check(folder)
            yield folder
        finally:
            # a killed server may still have a file open
            _run("umount", "--lazy", folder)


def image_of(folder: str) -> str:
    """The image behind a volume, to be searched; LabError if it is not ours."""
    image = os.path.join(os.path.dirname(folder), "image")
    if not os.path.exists(image):
        raise LabError(f"{folder} is not on an image of the lab's own")
    return image


def _check(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fscrypt.policy(fd)
    except OSError as exc:
        raise LabError(f"no fscrypt on {folder}: {exc.strerror}") from None
    finally:
        os.close(fd)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as exc:
        raise LabError(f"cannot run {command[0]}: {exc.strerror}") from None
    if done.returncode:
        raise LabError(f"{command[0]}: {done.stderr.strip()}")
