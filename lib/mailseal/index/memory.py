# SPDX-License-Identifier: MIT
"""Index caches in memory: measures, selects and removes them.  Empties old index folders.

    /run/mailseal/cache/USER/.INBOX/dovecot.index.cache

measure() and wipe() run as the owner of the mail (caches.py), who may attack other users.  So they
follow no links, and do not remove folders, because Dovecot may be about to use them.
Dovecot builds a removed cache again; sessions that have it open continue.
over_limits() selects the caches to remove: the least recently used first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
import stat
from collections.abc import Generator, Sequence

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""The owner of the mail may pass through the folder of all index folders, but not list it."""

_DEPTH = 4
"""Depth of the search: Dovecot uses two levels of folders for each user."""


@dataclasses.dataclass(frozen=True)
class Cached:
    """The cache of one user.  `used`: time of the newest file, in seconds since 1970."""

    name: str
    size: int
    used: float


def measure(root: str) -> list[Cached]:
    """All users with files in memory."""
    found = []
    for name in _names(root):
        size, used = 0, 0.0
        for folder, path in _files(root, name):
            with contextlib.suppress(OSError):
                state = os.stat(path[-1], dir_fd=folder, follow_symlinks=False)
                size += state.st_blocks * 512
                used = max(used, state.st_atime, state.st_mtime)
        if size:
            found.append(Cached(name, size, used))
    return found


def wipe(root: str, name: str) -> int:
    """Remove a user's files; returns their number."""
    count = 0
    if "/" not in name and name not in ("", ".", ".."):
        for folder, path in _files(root, name):
            with contextlib.suppress(OSError):
                os.unlink(path[-1], dir_fd=folder)
                count += 1
    return count


def empty(root: str, name: str) -> None:
    """Remove all that is in a folder, as far as that can be done."""
    if "/" in name or name in ("", ".", ".."):
        return
    path = os.path.join(root, name)
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        inside = [(one.name, one.is_dir(follow_symlinks=False)) for one in entries]
        for entry, is_folder in inside:
            if is_folder:
                shutil.rmtree(os.path.join(path, entry), ignore_errors=True)
            else:
                os.unlink(os.path.join(path, entry))


def over_limits(found: Sequence[Cached], per_user: int, total: int) -> list[str]:
    """The users whose caches must be removed for the limits `per_user` and `total`."""
    gone = [one.name for one in found if one.size > per_user]
    kept = sorted((one for one in found if one.size <= per_user), key=lambda one: one.used)
    size = sum(one.size for one in kept)
    for one in kept:
        if size <= total:
            break
        gone.append(one.name)
        size -= one.size
    return gone


def walk(root: str, name: str, most: int) -> list[tuple[tuple[str, ...], os.stat_result]]:
    """Path and state of each regular file of a user, at most `most`.  Nothing stays open."""
    found = []
    with contextlib.closing(_files(root, name)) as files:
        for folder, path in itertools.islice(files, most):
            with contextlib.suppress(OSError):
                state = os.stat(path[-1], dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(state.st_mode):
                    found.append((path, state))
    return found


def _names(root: str) -> list[str]:
    try:
        return os.listdir(root)
    except OSError:
        return []


def _files(root: str, name: str) -> Generator[tuple[int, tuple[str, ...]], None, None]:
    """Each file below a user's folder: a descriptor of its folder, and its path from `root`."""
    with contextlib.suppress(OSError):
        top = os.open(root, _ROOT)
        try:
            yield from _below(top, (name,), _DEPTH)
        finally:
            os.close(top)


def _below(
    above: int, path: tuple[str, ...], depth: int
) -> Generator[tuple[int, tuple[str, ...]], None, None]:
    try:
        folder = os.open(path[-1], _FOLDER, dir_fd=above)
    except OSError:
        return
    try:
        with os.scandir(folder) as entries:
            inside = [(one.name, one.is_dir(follow_symlinks=False)) for one in entries]
        for entry, is_folder in inside:
            if is_folder and depth > 1:
                yield from _below(folder, (*path, entry), depth - 1)
            elif not is_folder:
                yield folder, (*path, entry)
    finally:
        os.close(folder)
