# SPDX-License-Identifier: MIT
"""Dovecot's lock of one Maildir folder: dovecot-uidlist.lock.

    with held("/home/a/Maildir/.Sent/dovecot-uidlist"):
        ...                              # no Dovecot lists the folder, or renames or removes a mail

WHY NOT ALWAYS
    Dovecot does not always wait for this lock: when it searches a mail whose file was renamed, it
    lists the folder without the lock if it is not free.  On a busy machine changes of clients were
    lost: of 4 runs in which the lock was held again and again, and nothing else was done, 2 ended
    with a mail that a client had expunged, or without a flag that it had set.  So it is used only
    for folders without an index: listing.py.

FORMAT (Dovecot's file-dotlock.c)
    The file is the lock.  It contains "<pid>:<host name>".  If the process does not exist on the
    same host any more, the lock is removed at once.  If this is unknown, the lock is
    removed when it has not changed for 120 seconds.

FAILURES
    TemporaryError: the lock is not free for several minutes.  DiskFull.  Errors of the block.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import time
from collections.abc import Iterator

from mailseal import durable
from mailseal.errors import TemporaryError
from mailseal.paths import is_still

_STALE = 120.0
_YOUNG = 2.0
"""Seconds; Dovecot's values.  A young lock is in use: its process may run in another container with
the same host name, where it cannot be seen."""
_TIMEOUT = 180.0
_PAUSE = 0.005

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


@contextlib.contextmanager
def held(uid_list: str) -> Iterator[None]:
    """Hold the lock of the folder with this dovecot-uidlist, which need not exist."""
    path = f"{uid_list}.lock"
    with durable.reporting(f"cannot lock {path}"):
        fd = _taken(path)
    if fd is None:
        yield
        return
    try:
        yield
    finally:
        _release(path, fd)


def _taken(path: str) -> int | None:
    """The open lock file; None if its folder does not exist: Dovecot has not used it yet."""
    give_up = time.monotonic() + _TIMEOUT
    try:
        fd = _without_name(os.path.dirname(path))
    except FileNotFoundError:
        return None
    try:
        while True:
            try:
                if fd >= 0:
                    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
                else:
                    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    with contextlib.suppress(OSError):  # as in Dovecot: then it stays empty
                        os.write(fd, _holder())
                return fd
            except FileExistsError:
                pass
            if _is_left_over(path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                # As in Dovecot: another process that removes the old lock must not remove ours.
                time.sleep(random.uniform(0.05, 0.1))  # noqa: S311 - no secret
            elif time.monotonic() > give_up:
                raise TemporaryError(
                    f"{path} is not free", hint="a Dovecot process holds it; see Dovecot's log"
                )
            time.sleep(_PAUSE)
            if fd >= 0:
                os.utime(fd)  # its age is that of the lock
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise


def _without_name(folder: str) -> int:
    """Write the content of the lock file before it gets its name; -1 if this is not supported.

    Otherwise, after a kill between the two, the lock would seem to be in use.
    """
    try:
        fd = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno in _NO_TMPFILE:
            return -1
        raise
    os.write(fd, _holder())
    return fd


def _holder() -> bytes:
    return f"{os.getpid()}:{socket.gethostname()}".encode()


def _is_left_over(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # removed, or unknown: wait
    try:
        pid, _, host = os.read(fd, 512).decode(errors="replace").strip().partition(":")
        found = os.fstat(fd)
    finally:
        os.close(fd)
    age = time.time() - max(found.st_mtime, found.st_ctime)
    if host == socket.gethostname() and pid.isdecimal() and int(pid) > 0:
        left_over = age > _YOUNG and not _runs(int(pid))
    else:
        left_over = age > _STALE
    return left_over and is_still(path, found)


def _runs(pid: int) -> bool:
    if pid == os.getpid():
        return False  # an earlier process with the same pid
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _release(path: str, fd: int) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            if is_still(path, os.fstat(fd)):
                os.unlink(path)
    finally:
        os.close(fd)
