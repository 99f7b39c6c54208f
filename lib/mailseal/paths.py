# SPDX-License-Identifier: MIT
"""Opens folders safely that root uses but other users may own: step by step, not by name.

CONTRACT
    open_folder() follows no symbolic link that anybody but root or the caller could
    have made or changed.  The caller then uses the descriptor of the folder, so nobody
    can replace the folder in between.
    If everybody may write to a folder in the path, it is refused, unless it has the
    sticky bit.

FAILURES
    ConfigError, with the path.
"""

from __future__ import annotations

import os
import stat

from mailseal.errors import ConfigError

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40


class Folder:
    """An open folder.  `own`: only root and the caller can change its content."""

    def __init__(self, fd: int, path: str, own: bool) -> None:
        self.fd = fd
        self.path = path
        self.own = own

    def entry(self, name: str) -> str:
        """A path to a name in this folder, for system calls without a descriptor: bind(2)."""
        return f"/proc/self/fd/{self.fd}/{name}"

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def open_folder(path: str) -> Folder:
    """Open the folder at this absolute path."""
    fd = os.open("/", _PATH)
    own, links = True, 0
    todo = path.split("/")[::-1]
    try:
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            folder, entry = os.fstat(fd), os.stat(part, dir_fd=fd, follow_symlinks=False)
            fixed = _entry_is_fixed(folder, entry, path)
            if stat.S_ISLNK(entry.st_mode):
                links += 1
                if not fixed or links > _MAX_LINKS:
                    raise ConfigError(f"{path}: {part} is a symbolic link that others can change")
                target = os.readlink(part, dir_fd=fd)
                todo.extend(target.split("/")[::-1])
                step = os.open("/" if target.startswith("/") else ".", _PATH, dir_fd=fd)
            else:
                step = os.open(part, _PATH, dir_fd=fd)
                own = own and fixed
            os.close(fd)
            fd = step
        last = os.fstat(fd)
        _refuse_open_to_all(last, path)
        return Folder(fd, path, own and _is_ours(last) and not _others_write(last))
    except OSError as exc:
        os.close(fd)
        raise ConfigError(f"cannot open the folder {path}: {exc.strerror}") from None
    except BaseException:
        os.close(fd)
        raise


def is_still(path: str, found: os.stat_result) -> bool:
    """Whether this path names the same file as before.  Raises OSError, but not if it is gone."""
    try:
        now = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)


def _entry_is_fixed(folder: os.stat_result, entry: os.stat_result, path: str) -> bool:
    """Whether only root and the caller can replace this name."""
    _refuse_open_to_all(folder, path)
    if not _is_ours(folder):
        return False
    if not _others_write(folder):
        return True
    return bool(folder.st_mode & stat.S_ISVTX) and _is_ours(entry)


def _refuse_open_to_all(folder: os.stat_result, path: str) -> None:
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        raise ConfigError(
            f"{path}: everybody may write to this folder, or to one above it",
            hint="remove the write permission of others: chmod o-w",
        )


def _is_ours(state: os.stat_result) -> bool:
    return state.st_uid in (0, os.geteuid())


def _others_write(folder: os.stat_result) -> bool:
    by_group = folder.st_mode & stat.S_IWGRP and folder.st_gid != 0
    return bool(by_group or folder.st_mode & stat.S_IWOTH)
