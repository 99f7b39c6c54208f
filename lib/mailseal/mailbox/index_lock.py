# SPDX-License-Identifier: MIT
"""Dovecot's lock of the index of one folder: a lock on its dovecot.index.log.

    with held("/home/a/Maildir/.Sent/dovecot.index.log") as is_held:    # or several indexes
        ...                              # no Dovecot lists the folder, or renames or removes a mail

CONTRACT
    Before Dovecot lists a Maildir folder, or changes flags or removes mails in it, it locks this
    file until it is done (mail_index_sync_begin).  If the lock is not free, it always waits, up to
    three minutes.  So no change of a client is lost, unlike with folder_lock.py.
    The kernel releases the lock when this process ends, also after kill -9.
    Dovecot replaces the file only while it holds the lock of the old one.

LIMITS
    No Dovecot has used the folder with an index on disk: the file does not exist.
    Dovecot locks in another way, if lock_method is dotlock.  admin/file_places.py and
    admin/mail_place.py say where this lock is of use.

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


class _InUse(Exception):
    """Another process holds the lock of this file."""


@contextlib.contextmanager
def held(*logs: str) -> Iterator[bool]:
    """Hold the locks of all these files.  False: one does not exist, and nothing is locked.

    While it waits for one of them, it does not hold the others: Dovecot would have to wait, too.
    """
    give_up = time.monotonic() + _TIMEOUT
    while True:
        with contextlib.ExitStack() as files:
            try:
                exist = bool(logs) and all(_locked(log, files) for log in logs)
            except _InUse as exc:
                if time.monotonic() > give_up:
                    raise TemporaryError(
                        f"the lock of {exc} is not free",
                        hint="a Dovecot process holds it; see Dovecot's log",
                    ) from None
            else:
                if not exist:
                    files.close()
                yield exist
                return
        time.sleep(_PAUSE)


def _locked(log: str, files: contextlib.ExitStack) -> bool:
    """Lock one file until `files` is closed.  Raises _InUse.  False: it does not exist."""
    while True:
        with durable.reporting(f"cannot lock {log}"):
            try:
                fd = os.open(log, _OPEN)
            except (FileNotFoundError, NotADirectoryError):
                return False
            files.callback(os.close, fd)
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise TemporaryError(f"{log} is not a file")
            try:
                # lock_method decides which of the two Dovecot takes.  Neither affects the other.
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise _InUse(log) from None
            # Dovecot may have replaced it in the meantime.
            if is_still(log, found):
                return True
