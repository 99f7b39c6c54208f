# SPDX-License-Identifier: MIT
"""Reads an index folder ahead: after it was unlocked, and before Dovecot needs it.

Locking a folder drops its pages, so the first listing after a login would wait for the disk and
for the decryption, a few pages at a time.  Measured: 13 ms for each MB where the kernel has no
driver for the processor's AES instructions, 0.5 ms where it has one.

CONTRACT
    plan() selects up to `limit` bytes: first INBOX, then the other mailboxes, the last used ones
    first, and then the full-text indexes.  read() reads one piece of at most PIECE bytes; nothing
    is open afterwards, because a folder with open files cannot be locked.
    This runs as the owner of the mail (keeper.py), who can put anything into the folders.  So no
    links are followed, and only regular files are read.

FAILURES
    None: what cannot be read is left to Dovecot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat

from mailseal.index import memory

PIECE = 1 << 20
"""Bytes.  A lock waits for one piece: 13 ms without the processor's AES instructions."""

_STEP = 128 << 10
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL_TEXT = ("xapian-indexes", "fts-flatcurve")
_SMALL = 64 << 10
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
    for path, state in memory.walk(root, name, _FILES):
        size = state.st_size
        last = size > _SMALL and any(part in _FULL_TEXT for part in path)
        others = len(path) > 2 and path[1] not in (".INBOX", "INBOX")
        found.append((last, others, others and -state.st_mtime, size, path))
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
        fd = _open(root, piece.path)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return
            # All of it at once, so that several processors can decrypt it; then wait for it.
            os.posix_fadvise(fd, piece.offset, piece.size, os.POSIX_FADV_WILLNEED)
            for offset in range(piece.offset, piece.offset + piece.size, _STEP):
                os.pread(fd, min(_STEP, piece.offset + piece.size - offset), offset)
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
