# SPDX-License-Identifier: MIT
"""Writes that survive a power failure: the only module that calls fsync and rename.

CONTRACT
    When a function returns, the content and the directory entry are on disk.  When it
    raises, the old state is unchanged.  Only a crash can leave a temporary file, not an
    error.  A caller that holds its own lock uses `alone`: then the temporary file has a
    fixed name, and sweep() removes it.

FAILURES
    ENOSPC and EDQUOT become DiskFull; every other OSError becomes
    TemporaryError.  One error is ignored: some file systems (FUSE, vboxsf)
    return EINVAL for fsync of a folder, which means that it is not supported, not
    that data are lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Mapping

from mailseal.errors import DiskFull, MailsealError, TemporaryError

# Without O_TMPFILE: overlayfs of old kernels, FUSE, NFS.
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)

ACL = "system.posix_acl_access"
"""The extended attribute with a file's ACL."""

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_SYNC_FILE_RANGE_WRITE = 2

LEFT_OVER = "#tmp"
"""End of the name of a temporary file written with `alone`; file_name() makes no such name."""


def error_of(exc: OSError, doing: str) -> MailsealError:
    """Convert an OSError to an error of mailseal.  `doing`: what failed, without secrets."""
    text = f"{doing}: {exc.strerror or exc}"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(text)
    return TemporaryError(text)


class reporting:  # noqa: N801 - used like a function
    """Convert each OSError in the block to an error of mailseal.

    A class: contextlib.contextmanager takes three times as long, 1.5 us, and a sealed mail needs
    this 15 times.
    """

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if isinstance(exc, OSError):
            raise error_of(exc, self._doing) from None


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all bytes; one write(2) may write only a part of them."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_file(fd: int) -> None:
    """fsync an open file.  An error is final: the kernel may have dropped the pages."""
    os.fsync(fd)


def begin_sync(fd: int) -> None:
    """Ask the kernel to start writing a file to disk, so that sync_file() is faster later.

    Errors are ignored: sync_file() reports them.
    """
    with contextlib.suppress(AttributeError):
        whole = ctypes.c_int64(0)
        _libc.sync_file_range(fd, whole, whole, _SYNC_FILE_RANGE_WRITE)


def sync_folder(path: str) -> None:
    """fsync a folder, so that the names in it survive."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def open_new(path: str, mode: int = 0o600) -> int:
    """Create a file, open to write and read.

    Never opens an existing file, or one through a symbolic link.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def move(source: str, target: str) -> None:
    """rename(2).  Durable only after sync_folder() of the target folder."""
    os.rename(source, target)


def exchange(one: str, other: str) -> None:
    """Exchange two names in one step: renameat2(2).  Durable only after sync_folder().

    Raises OSError: ENOENT if one does not exist, EINVAL or ENOSYS if the file system or the
    C library does not support it.
    """
    try:
        call = _libc.renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), one) from None
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one)


def file_system(path: str) -> int:
    """The magic number of a path's file system: f_type of statfs(2).  0 if it is not known."""
    # The largest struct statfs has 120 bytes; f_type is the first field.
    found = (ctypes.c_long * 32)()
    return int(found[0]) if _libc.statfs(os.fsencode(path), found) == 0 else 0


def replace(
    path: str,
    data: bytes,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    acl: bytes | None = None,
    alone: bool = False,
    temporary: str | None = None,
    sync: bool = True,
) -> None:
    """Replace the content of `path` atomically: readers see the old bytes or the new ones.

    `temporary` + LEFT_OVER is the name of the temporary file, if the caller has called
    sweep(temporary).  Without `sync` a crash may leave anything, until sync_file_system().
    """
    if temporary is not None:
        temporary += LEFT_OVER
    elif alone:
        sweep(path)
        temporary = path + LEFT_OVER
    else:
        temporary = _temporary_of(path)
    _replace_all({path: (temporary, data)}, mode, owner, acl, sync=sync)


def replace_together(files: Mapping[str, bytes], *, mode: int = 0o600) -> None:
    """As replace() with `alone` for each, in this order, but all are written before the first name.

    Readers see only some of them replaced for about 10 us, and not while a disk syncs. A crash may
    leave only some of them replaced, on most file systems the first.
    """
    for path in files:
        sweep(path)
    _replace_all({path: (path + LEFT_OVER, data) for path, data in files.items()}, mode)


def _replace_all(
    files: Mapping[str, tuple[str, bytes]],
    mode: int,
    owner: tuple[int, int] | None = None,
    acl: bytes | None = None,
    *,
    sync: bool = True,
) -> None:
    """`files`: for each path the temporary name and the data."""
    try:
        for path, (temporary, data) in files.items():
            with reporting(f"cannot write {path}"):
                _write_new(temporary, data, mode, owner, acl, sync=sync)
        for path, (temporary, _) in files.items():
            with reporting(f"cannot write {path}"):
                os.rename(temporary, path)
        for folder in {os.path.dirname(path) or "." for path in files if sync}:
            with reporting(f"cannot write to {folder}"):
                sync_folder(folder)
    except MailsealError:
        for temporary, _ in files.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        raise


def create(
    path: str, data: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None
) -> None:
    """Make a new file, complete or not at all.

    FileExistsError is passed on, so that the caller can distinguish an existing file from
    a failure.  The content is complete before the name exists: unlike rename(2), link(2)
    never replaces a file.  If the file system has O_TMPFILE, a crash leaves nothing.
    """
    folder = os.path.dirname(path) or "."
    try:
        if not _create_without_name(folder, path, data, mode, owner):
            _create_by_name(path, data, mode, owner)
        try:
            sync_folder(folder)
        except OSError:
            os.unlink(path)
            raise
    except FileExistsError:
        raise
    except OSError as exc:
        raise error_of(exc, f"cannot create {path}") from None


def _create_without_name(
    folder: str, path: str, data: bytes, mode: int, owner: tuple[int, int] | None
) -> bool:
    """Returns False, and has done nothing, if this is not supported."""
    if not os.path.isdir("/proc/self/fd"):
        return False
    try:
        fd = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, mode)
    except OSError as exc:
        if exc.errno in _NO_TMPFILE:
            return False
        raise
    try:
        _fill(fd, data, mode, owner)
        # Python calls linkat(2), which can follow this link, only with a dir_fd.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    finally:
        os.close(fd)
    return True


def _create_by_name(path: str, data: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    temporary = _temporary_of(path)
    _write_new(temporary, data, mode, owner)
    try:
        os.link(temporary, path)
    finally:
        os.unlink(temporary)


def sweep(path: str) -> bool:
    """Remove a file that replace(path, alone=True) has left.  Returns whether there was one.

    The caller holds the lock of that writer.  A link is removed, not followed.
    """
    with reporting(f"cannot remove {path}{LEFT_OVER}"):
        try:
            os.unlink(path + LEFT_OVER)
        except FileNotFoundError:
            return False
        sync_folder(os.path.dirname(path) or ".")
    return True


def remove(path: str, *, sync: bool = True) -> None:
    """Unlink durably, or without `sync` until sync_file_system().  The file need not exist."""
    with reporting(f"cannot remove {path}"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        if sync:
            sync_folder(os.path.dirname(path) or ".")


def sync_file_system(path: str) -> None:
    """Sync all that was written to the file system of this folder: syncfs(2)."""
    with reporting(f"cannot sync {path}"):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), path)
        finally:
            os.close(fd)


def make_folder(path: str, *, mode: int = 0o700, owner: tuple[int, int] | None = None) -> None:
    """Make one folder durably, with exactly this mode, for any umask.  It may exist."""
    with reporting(f"cannot make folder {path}"):
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            return
        # By descriptor: the file may be in a folder of another user than root.
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(fd, mode)
            if owner is not None:
                os.fchown(fd, *owner)
        finally:
            os.close(fd)
        sync_folder(os.path.dirname(path) or ".")


def _write_new(
    path: str,
    data: bytes,
    mode: int,
    owner: tuple[int, int] | None,
    acl: bytes | None = None,
    *,
    sync: bool = True,
) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        if acl is not None:
            os.setxattr(fd, ACL, acl)
        _fill(fd, data, mode, owner, sync=sync)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(fd)


def _fill(
    fd: int, data: bytes, mode: int, owner: tuple[int, int] | None, *, sync: bool = True
) -> None:
    os.fchmod(fd, mode)
    if owner is not None:
        os.fchown(fd, *owner)
    write_all(fd, data)
    if sync:
        sync_file(fd)


def _temporary_of(path: str) -> str:
    return f"{path}.tmp.{os.getpid()}.{os.urandom(4).hex()}"
