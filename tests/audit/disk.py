# SPDX-License-Identifier: MIT
"""A separate disk: a file with ext4, mounted with a loop device, and then read raw.

CONTRACT
    Disk.make() mounts it, unmount() unmounts it, and words() searches all blocks that were ever
    written: of files, deleted files and the journal.  Blocks that were never written are
    holes in the file and are not read.
    Each hit has the path of the block's file, or FREE or JOURNAL.

FAILURES
    LabError with a hint if there are no loop devices or no such file system.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import secrets
import struct
import subprocess
from collections.abc import Iterator, Sequence

from tests.audit.words import MARGIN, Hit, Owner, find
from tests.lab.place import LabError

FREE, JOURNAL = "<free blocks>", "<journal>"

_BLOCK = 4096
_CHUNK = 4 << 20
_ADD_KEY, _SET_POLICY = 0xC0506617, 0x800C6613
_JOURNAL_INODE = 8


class Disk:
    """One file system in a file."""

    def __init__(self, image: str, mounted: str) -> None:
        self.image = image
        self.folder = mounted
        self._binds: list[str] = []

    @classmethod
    def make(cls, image: str, mounted: str, megabytes: int) -> Disk:
        """Make and mount it.  Raises LabError."""
        with open(image, "wb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.truncate(megabytes << 20)
        _run(
            "mkfs.ext4", "-q", "-b", str(_BLOCK), "-O", "encrypt", "-E", "lazy_itable_init=0", image
        )
        os.makedirs(mounted, exist_ok=True)
        _run("mount", "-o", "loop", image, mounted)
        os.rmdir(os.path.join(mounted, "lost+found"))
        os.chmod(mounted, 0o711)
        return cls(image, mounted)

    def folder_for(self, path: str, *, encrypted: bool) -> None:
        """A folder of this disk at another path: a bind mount."""
        own = os.path.join(self.folder, os.path.basename(path))
        os.mkdir(own)
        if encrypted:
            encrypt_folder(own)
        os.makedirs(path, exist_ok=True)
        _run("mount", "--bind", own, path)
        self._binds.append(path)

    def sync(self) -> None:
        """Write this file system to the disk."""
        with _opened(self.folder) as fd:
            ctypes.CDLL(None).syncfs(fd)

    def trim(self) -> None:
        """Discard free blocks, as on an SSD; here they become holes."""
        _run("fstrim", self.folder)

    def unmount(self) -> None:
        """Unmount it: all data are written, and the kernel removes its keys."""
        for path in (*self._binds[::-1], self.folder):
            if os.path.ismount(path):
                _run("umount", path)
        self._binds.clear()

    def words(self, whose: Sequence[Owner]) -> list[tuple[Hit, str]]:
        """All hits in the raw blocks, with the paths of their files.  It must be unmounted."""
        hits = list(self._raw(whose))
        paths = self._paths({hit.offset // _BLOCK for hit in hits})
        return [(hit, paths[hit.offset // _BLOCK]) for hit in hits]

    def _raw(self, whose: Sequence[Owner]) -> Iterator[Hit]:
        seen = set()
        with open(self.image, "rb") as stream:
            for start, end in _extents(stream.fileno()):
                for at in range(start, end, _CHUNK):
                    # With a margin: a word may begin in one chunk and end in the next.
                    first = max(start, at - MARGIN)
                    data = os.pread(stream.fileno(), min(end, at + _CHUNK) - first, first)
                    for hit in find(data, whose):
                        there = hit._replace(offset=hit.offset + first)
                        if (there.offset, there.owner, there.form) not in seen:
                            seen.add((there.offset, there.owner, there.form))
                            yield there

    def _paths(self, blocks: set[int]) -> dict[int, str]:
        """The file of each block, from debugfs."""
        inodes: dict[int, int] = {}
        for batch in _batches(sorted(blocks)):
            said = self._debugfs("icheck " + " ".join(map(str, batch)))
            inodes |= {int(b): int(i) for b, i in re.findall(r"^(\d+)\t(\d+)$", said, re.M)}
        names: dict[int, str] = {_JOURNAL_INODE: JOURNAL}
        for batch in _batches(sorted(set(inodes.values()) - {_JOURNAL_INODE})):
            said = self._debugfs("ncheck " + " ".join(map(str, batch)))
            names |= {int(i): path for i, path in re.findall(r"^(\d+)\t/*(.*)$", said, re.M)}
        return {
            block: names.get(inodes[block], f"<inode {inodes[block]}>") if block in inodes else FREE
            for block in blocks
        }

    def _debugfs(self, request: str) -> str:
        done = subprocess.run(
            ["debugfs", "-R", request, self.image], capture_output=True, check=True
        )
        return done.stdout.decode(errors="replace")


def encrypt_folder(folder: str) -> None:
    """Encrypt an empty folder (fscrypt), with a key that is not stored anywhere.

    struct fscrypt_add_key_arg and fscrypt_policy_v2 of linux/fscrypt.h.
    """
    with _opened(folder) as fd:
        added = bytearray(
            struct.pack("<II32s II 32x 64s", 2, 0, b"", 64, 0, secrets.token_bytes(64))
        )
        try:
            fcntl.ioctl(fd, _ADD_KEY, added)
            identifier = bytes(added[8:24])
            # Version 2, AES-256-XTS for contents, AES-256-CTS for names, padding of 32 bytes.
            fcntl.ioctl(fd, _SET_POLICY, struct.pack("<BBBB4x16s", 2, 1, 4, 3, identifier))
        except OSError as exc:
            raise LabError(
                f"cannot encrypt {folder} with fscrypt: {exc.strerror}",
                hint="the kernel needs CONFIG_FS_ENCRYPTION, version 5.4 or newer",
            ) from None


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    """Start and end of the parts that are not holes, in bytes."""
    at = 0
    with contextlib.suppress(OSError):  # ENXIO: only a hole is left
        while True:
            at = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, at, os.SEEK_HOLE)
            yield at, end
            at = end


def _batches(numbers: Sequence[int], size: int = 500) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed", hint="apt-get install e2fsprogs") from None
    if done.returncode:
        hint = None
        if command[0] == "mount":
            hint = "in a container: allow loop devices, or run it on a virtual machine"
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}", hint=hint)
