# SPDX-License-Identifier: MIT
"""Reads an index folder ahead: after it was unlocked, and before Dovecot needs it.

Locking a folder drops its pages, so the first listing after a login would wait for the disk and
for the decryption, a few pages at a time.  Measured: 13 ms for each MB where the kernel has no
driver for the processor's AES instructions, 0.5 ms where it has one.

CONTRACT
    plan() selects up to `limit` bytes: first INBOX, with the blocks of its full-text index in which
    each search begins (glass.py), then the other mailboxes, the last used ones first, and then
    the words of the full-text indexes.  read() reads one piece of at most PIECE bytes; nothing is
    open afterwards, because a folder with open files cannot be locked.
    This runs as the owner of the mail (keeper.py), who can put anything into the folders.  So no
    links are followed, and only regular files are read.

FAILURES
    None: what cannot be read is left to Dovecot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
from collections.abc import Iterator

from mailseal.index import glass, memory

PIECE = 1 << 20
"""Bytes.  A lock waits for one piece: 13 ms without the processor's AES instructions."""

_STEP = 128 << 10
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_XAPIAN, _FLATCURVE = "xapian-indexes", "fts-flatcurve"
_WORDS = f"{glass.WORDS}.glass"
_SMALL = 64 << 10
_BLOCKS = 32
"""The largest number of blocks of a full-text index that are read with its version file."""

_FILES = 4096
"""The largest number of files that are looked at."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a file.  `path`: relative to the folder of all index folders."""

    path: tuple[str, ...]
    offset: int
    size: int


def plan(root: str, name: str, limit: int) -> list[Piece]:
    """The pieces of a user's index folder, in the order in which they should be read."""
    found = []
    files = memory.walk(root, name, _FILES)
    # fts-xapian has the indexes of all mailboxes side by side.
    used = [
        (state.st_mtime, path[:-1])
        for path, state in files
        if path[1] == _XAPIAN and path[-1] == glass.VERSION_FILE
    ]
    inbox = (*(path for _, path in sorted(used)[-1:]), (name, ".INBOX"), (name, "INBOX"))
    for path, state in files:
        size = state.st_size
        last = size > _SMALL and not {_XAPIAN, _FLATCURVE}.isdisjoint(path)
        others = len(path) > 2 and not any(path[: len(one)] == one for one in inbox)
        if not last or path[-1] == _WORDS:  # a search needs no other large file
            version = path[-1] == glass.VERSION_FILE
            found.append((last, others, others and -state.st_mtime, not version, size, path))
    pieces: list[Piece] = []
    for *_, size, path in sorted(found):
        for offset in range(0, size, PIECE):
            taken = min(PIECE, size - offset, limit)
            if taken <= 0:
                return pieces
            pieces.append(Piece(path, offset, taken))
            limit -= taken
    return pieces


def read(root: str, piece: Piece) -> None:
    """Read one piece into the kernel's memory."""
    with contextlib.suppress(OSError):
        if piece.path[-1] == glass.VERSION_FILE:
            _read_upper_blocks(root, piece.path)
            return
        with _opened(root, piece.path) as fd:
            # All of it at once, so that several processors can decrypt it; then wait for it.
            os.posix_fadvise(fd, piece.offset, piece.size, os.POSIX_FADV_WILLNEED)
            for offset in range(piece.offset, piece.offset + piece.size, _STEP):
                os.pread(fd, min(_STEP, piece.offset + piece.size - offset), offset)


def _read_upper_blocks(root: str, path: tuple[str, ...]) -> None:
    """The version file of a full-text index, the root of each table, and branches of the words."""
    with _opened(root, path) as fd:
        version = os.pread(fd, glass.VERSION_SIZE, 0)
    for table in glass.roots(version):
        name = f"{table.table}.glass"
        with contextlib.suppress(OSError), _opened(root, (*path[:-1], name)) as fd:
            if name == _WORDS:
                _descend(fd, table)
            else:
                _read_blocks(fd, [table.block], table.block_size)


def _descend(fd: int, table: glass.Root) -> None:
    wanted, left = [table.block], _BLOCKS
    for level in range(table.level, -1, -1):
        if level == 0:
            del wanted[1:]  # all branches, and only the first leaf
        blocks = _read_blocks(fd, wanted[:left], table.block_size)
        wanted = [number for block in blocks for number in glass.below(block)]
        left -= len(blocks)


def _read_blocks(fd: int, numbers: list[int], size: int) -> list[bytes]:
    for number in numbers:  # so that none waits for the others
        os.posix_fadvise(fd, number * size, size, os.POSIX_FADV_WILLNEED)
    return [os.pread(fd, size, number * size) for number in numbers]


@contextlib.contextmanager
def _opened(root: str, path: tuple[str, ...]) -> Iterator[int]:
    """A regular file.  Raises OSError for anything else."""
    fd = _open(root, path)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        yield fd
    finally:
        os.close(fd)


def _open(root: str, path: tuple[str, ...]) -> int:
    folder = os.open(root, _FOLDER)
    for part in path[:-1]:
        above = folder
        try:
            folder = os.open(part, _FOLDER, dir_fd=above)
        finally:
            os.close(above)
    try:
        return os.open(path[-1], _FILE, dir_fd=folder)
    finally:
        os.close(folder)
