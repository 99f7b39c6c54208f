# SPDX-License-Identifier: MIT
"""Counters of a daemon in a small file in memory, which mailseal-metrics reads.

    file = CounterFile.create(config, AGENT)       # as root, if the daemon starts as root
    part = file.part(0)                            # one for each process that counts
    part.add("mailseal_unlocks", "ok")

CONTRACT
    Counting is a store to shared memory: no system call, no lock, nothing that waits for a reader.
    A reader only reads, so a slow or hostile one cannot delay the daemon.
    Only one process, and one of its threads, writes to a part.  Readers add up all parts, so the
    counts of a worker that has ended stay, and the next worker continues its part.
    The file is made new when the daemon starts.

FORMAT
    MAGIC, the digest of the layout, the time of the start (a double); then, from byte 4096, parts
    of part_size() bytes each.  A part has one double for each cell of the layout, aligned to 8
    bytes, so each is read and written at once.

    The daemon holds a read lock (F_OFD_SETLK) on the file.  A reader can ask the kernel whether
    there is a lock, without taking one, and so knows whether the daemon runs.

FAILURES
    create() raises ConfigError; read() never fails.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import fcntl
import mmap
import os
import stat
import struct
import time

from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.errors import ConfigError
from mailseal.metrics.table import Layout
from mailseal.paths import Folder, open_folder
from mailseal.sockets import made_with

MAGIC = b"mailseal counters 1\n"
_HEAD = struct.Struct(f"{len(MAGIC)}s32s4xd")
_PAGE = 4096
_LOCK = struct.Struct("hhqqi4x")  # struct flock: l_type, l_whence, l_start, l_len, l_pid
_MOST = 16 << 20


def part_size(layout: Layout) -> int:
    """Size of one part in bytes: whole pages, as mmap(2) needs."""
    return -(-layout.size * 8 // _PAGE) * _PAGE


class Part:
    """The counters of one process.

    A series that is not in the table is not counted: no delivery and no login fails because of it.
    """

    def __init__(self, layout: Layout, fd: int, number: int) -> None:
        size = part_size(layout)
        self._cells = memoryview(mmap.mmap(fd, size, offset=_PAGE + number * size)).cast("d")
        self._layout = layout
        self._at = layout.cells
        self._bounds = {metric.name: metric.bounds for metric in layout.metrics}

    def add(self, name: str, *values: str, amount: float = 1.0) -> None:
        """Increase a counter."""
        at = self._at.get((name, values))
        if at is not None:
            self._cells[at] += amount

    def set(self, name: str, *values: str, to: float) -> None:
        """Set a gauge."""
        at = self._at.get((name, values))
        if at is not None:
            self._cells[at] = to

    def observe(self, name: str, *values: str, value: float) -> None:
        """Add a value to a histogram."""
        at = self._at.get((name, values))
        if at is not None:
            bounds = self._bounds[name]
            self._cells[at + bisect.bisect_left(bounds, value)] += 1.0
            self._cells[at + len(bounds) + 1] += value


class CounterFile:
    """The file of a daemon that counts."""

    def __init__(self, layout: Layout, fd: int) -> None:
        self._layout = layout
        self._fd = fd

    @classmethod
    def create(cls, config: Config, layout: Layout) -> CounterFile | None:
        """Make the file of this daemon; None if metrics are off."""
        if config.metrics.listen is None:
            return None
        folder = config.metrics.folder
        group = None
        if os.geteuid() == 0:
            group = user_ids(config.metrics.user, "metrics.user")[1]
        try:
            with (
                open_folder(os.path.dirname(folder)) as above,
                made_with(0o027, group),
                contextlib.suppress(FileExistsError),
            ):
                os.mkdir(os.path.basename(folder), 0o750, dir_fd=above.fd)
            with open_folder(folder) as opened, made_with(0o027, group):
                fd = _made(opened, layout)
        except OSError as exc:
            raise ConfigError(f"option metrics.folder: {folder}: {exc.strerror}") from None
        return cls(layout, fd)

    def grow(self, number: int) -> None:
        """Make room for this part.  Only one process may call it: two could shrink the file."""
        end = _PAGE + (number + 1) * part_size(self._layout)
        if os.fstat(self._fd).st_size < end:
            os.ftruncate(self._fd, end)

    def part(self, number: int) -> Part:
        """The part with this number, from 0; there must be room for it, as for the first one."""
        return Part(self._layout, self._fd, number)


def _made(folder: Folder, layout: Layout) -> int:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(layout.daemon, dir_fd=folder.fd)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(layout.daemon, flags, 0o640, dir_fd=folder.fd)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    os.ftruncate(fd, _PAGE + part_size(layout))
    os.pwrite(fd, _HEAD.pack(MAGIC, layout.digest, time.time()), 0)
    return fd


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a reader found.  `cells` is empty if there is no file, or one of another version."""

    running: bool = False
    started: float = 0.0
    cells: tuple[float, ...] = ()


def read(folder: str, layout: Layout) -> Counts | None:
    """The sums of all parts; None if the daemon has not been started since the last boot."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(os.path.join(folder, layout.daemon), flags)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with open(fd, "rb", closefd=False) as stream:
            data = stream.read(_MOST)
        return _counts(data, layout, running=_is_locked(fd))
    finally:
        os.close(fd)


def _is_locked(fd: int) -> bool:
    question = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question)
    return bool(_LOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _counts(data: bytes, layout: Layout, *, running: bool) -> Counts:
    size = part_size(layout)
    if len(data) < _PAGE + size:
        return Counts(running)
    magic, digest, started = _HEAD.unpack_from(data)
    if (magic, digest) != (MAGIC, layout.digest):
        return Counts(running)
    sums = [0.0] * layout.size
    for start in range(_PAGE, len(data) - size + 1, size):
        part = struct.unpack_from(f"{layout.size}d", data, start)
        sums = [one + other for one, other in zip(sums, part, strict=True)]
    return Counts(running, started, tuple(sums))
