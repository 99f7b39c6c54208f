# SPDX-License-Identifier: MIT
"""Folders that root may use although others own them: opened step by step, not by name.

CONTRACT
    open_folder() follows no symbolic link that somebody other than root or the
    caller could have made or changed.  What is then done in the folder goes
    through its descriptor: nobody can put another folder in its place.
    A folder on the way into which everybody may write is refused, unless it
    has the sticky bit.

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
    """An open folder.  `own`: nobody but root and the caller decides what is in it."""

    def __init__(self, fd: int, path: str, own: bool) -> None:
        self.fd = fd
        self.path = path
        self.own = own

    def entry(self, name: str) -> str:
        """A path to a name in this folder for calls that take no descriptor, as bind(2)."""
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


def _entry_is_fixed(folder: os.stat_result, entry: os.stat_result, path: str) -> bool:
    """Whether only root and the caller can put something else under this name."""
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
