# SPDX-License-Identifier: MIT
"""Writes many public keys into the folder of a replica, and syncs them together.

CONTRACT
    One process writes, and it has read the rows from the database (sql/replica.py).
    Readers see the old file or the new one, never a part of one.  The mark is set before the key,
    and removed after it, as PublicStore does.
    After take() nothing is on disk for certain; after sync() all of it is.  A crash before that
    leaves some changes done and others not, and a power failure may leave files that are empty or
    cut off.  So the position of the replica is written only after sync(); without it, has() is
    asked again for each user.  It compares all bytes, so such a file is written again.

    For 1,000,000 users on ext4: a temporary name for each user, as replace() makes it, touches two
    more random blocks of the folder's index for each key; with one temporary name for all, and none
    for the empty marks, the files take half the time.  Hard links instead of empty marks are not
    faster.

FAILURES
    TemporaryError, DiskFull: what was done before stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from mailseal import durable
from mailseal.keys.listing import END
from mailseal.keys.names import file_name
from mailseal.keys.public import LEAVING, MAX_FILE

_UNREADABLE = b"?"


class Change(NamedTuple):
    """The new state of a user: content of the key file, or None, and whether there is a mark."""

    user: str
    data: bytes | None
    marked: bool


class Copying:
    """The folder of a PublicStore."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._marks = os.path.join(folder, "enrolled")
        self._temporary = os.path.join(folder, "copying")

    def is_empty(self) -> bool:
        """Whether no user has a key file or a mark."""
        for folder, end in ((self._folder, END), (self._marks, "")):
            with durable.reporting(f"cannot list {folder}"), os.scandir(folder) as entries:
                if any(entry.name.endswith(end) for entry in entries):
                    return False
        return True

    def has(self, change: Change) -> bool:
        """Whether the files show this state already, synced or not."""
        path, mark = self._paths(change.user)
        if change.data is not None:
            # For the users of a new host, this is the only system call.
            return _content(path) == change.data and _content(mark) == b""
        return _content(mark) == (LEAVING if change.marked else None) and not os.path.lexists(path)

    def take(self, changes: Iterable[Change]) -> None:
        """Write these states."""
        durable.sweep(self._temporary)
        for change in changes:
            path, mark = self._paths(change.user)
            if change.data is not None:
                self._mark(mark)
                self._replace(path, change.data)
                continue
            if change.marked:
                self._replace(mark, LEAVING)
            durable.remove(path, sync=False)
            if not change.marked:
                durable.remove(mark, sync=False)

    def sync(self) -> None:
        """Bring everything to disk that was written here, also by a process that was killed."""
        durable.sweep(self._temporary)
        durable.sync_file_system(self._folder)

    def _mark(self, mark: str) -> None:
        # An empty file has no half: it needs no temporary name.
        if not _make_empty(mark, 0o644) and _content(mark) != b"":
            self._replace(mark, b"")

    def _replace(self, path: str, data: bytes) -> None:
        durable.replace(path, data, mode=0o644, temporary=self._temporary, sync=False)

    def _paths(self, user: str) -> tuple[str, str]:
        name = file_name(user)
        return f"{self._folder}/{name}{END}", f"{self._marks}/{name}"


def _content(path: str) -> bytes | None:
    """Of a file; None if nothing has this name, _UNREADABLE if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.read(fd, MAX_FILE)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None
    except OSError:
        return _UNREADABLE


def _make_empty(path: str, mode: int) -> bool:
    """Make an empty file, without sync.  Returns False if the name exists."""
    with durable.reporting(f"cannot write {path}"):
        try:
            fd = durable.open_new(path, mode)
        except FileExistsError:
            return False
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
    return True
