# SPDX-License-Identifier: MIT
"""Dovecot's lock of the index of one folder: a lock on its dovecot.index.log.

    with held("/home/a/Maildir/.Sent/dovecot.index.log") as is_held:
        ...                              # no Dovecot lists the folder, or renames or removes a mail

CONTRACT
    Before Dovecot lists a Maildir folder, or changes flags or removes mails in it, it locks this
    file until it is done (mail_index_sync_begin).  If the lock is not free, it always waits, up to
    three minutes.  So no change of a client is lost, unlike with folder_lock.py.
    The kernel releases the lock when this process ends, also after kill -9.
    Dovecot replaces the file only while it holds the lock of the old one.

LIMITS
    No Dovecot has used the folder with an index on disk: the file does not exist.
    Dovecot locks in another way, if lock_method is dotlock.

FAILURES
    TemporaryError: the lock is not free for three minutes, or the file cannot be opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator

from mailseal import durable
from mailseal.errors import TemporaryError
from mailseal.paths import is_still

NAME = "dovecot.index.log"

_TIMEOUT = 180.0
_PAUSE = 0.001
"""Seconds.  Dovecot holds the lock for some milliseconds."""

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@contextlib.contextmanager
def held(log: str) -> Iterator[bool]:
    """Hold the lock.  False: there is no such file, and nothing is locked."""
    with durable.reporting(f"cannot lock {log}"):
        fd = _locked(log)
    try:
        yield fd >= 0
    finally:
        if fd >= 0:
            os.close(fd)


def _locked(log: str) -> int:
    give_up = time.monotonic() + _TIMEOUT
    while True:
        try:
            fd = os.open(log, _OPEN)
        except (FileNotFoundError, NotADirectoryError):
            return -1
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise TemporaryError(f"{log} is not a file")
            _wait(fd, log, give_up)
            # Dovecot may have replaced it while we waited.
            if is_still(log, found):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _wait(fd: int, log: str, give_up: float) -> None:
    while True:
        with contextlib.suppress(BlockingIOError, PermissionError):
            # lock_method decides which of the two Dovecot takes.  They do not affect each other.
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > give_up:
            raise TemporaryError(
                f"the lock of {log} is not free",
                hint="a Dovecot process holds it; see Dovecot's log",
            )
        time.sleep(_PAUSE)
