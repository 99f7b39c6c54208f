# SPDX-License-Identifier: MIT
"""A stored mail gets another form under the same name, while Dovecot and clients use the mailbox.

    work = Replacement(folder, "cur", name)    # opens the mail
    work.write(pieces)                         # tmp/: the new form, with the old one's times
    work.sync()                                # the caller reads it back and compares
    work.exchange()                            # one system call: the names change places
    work.finish()                              # the old form goes, after the folder was synced

CONTRACT
    At every moment the mailbox holds exactly one message under its name, and at least one
    whole copy of it is on disk.  A crash leaves the old form or the new one, and perhaps a
    file in tmp/ whose name begins with LEFT_OVER.
    renameat2(2) with RENAME_EXCHANGE swaps two names at once and fails when one of them is
    not there: so a flag that Dovecot changes meanwhile, which is a rename, is never undone.

WHY A LEFT-OVER IS NEVER THE ONLY COPY
    Before the exchange it is the new form, and the old one has the mail's name.  After the
    exchange it is the old form, and the new one, synced before, has the mail's name.  sweep()
    syncs the folders first, so that the exchange is on disk before the left-over goes.

FAILURES
    Moved: the name is gone, Dovecot has renamed or removed the mail; look again.
    Unwritable: the new form cannot be written, or names cannot be exchanged (NFS, for one).
    DiskFull.  TemporaryError for what concerns this mail alone.
    After any of them discard() leaves the mail as it was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterable, Iterator

from mailseal import durable
from mailseal.errors import DiskFull, MailsealError, TemporaryError
from mailseal.mailbox.folders import PARTS
from mailseal.mailbox.maildir import unique_name

LEFT_OVER = "mailseal-convert."
"""Begins the names of our files in tmp/."""

_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
_TRIES = 20


class Moved(MailsealError):
    """The mail has another name by now, or is gone."""


class Unwritable(TemporaryError):
    """Nothing can be converted here, for a reason that concerns every mail."""


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        with durable.reporting(f"cannot write to {path}"):
            yield
    except DiskFull:
        raise
    except TemporaryError as exc:
        raise Unwritable(str(exc)) from None


class Replacement:
    """One mail on its way to another form.  Ends with finish() or discard()."""

    def __init__(self, maildir: str, part: str, name: str) -> None:
        self.maildir = maildir
        self.path = f"{maildir}/{part}/{name}"
        self.temporary = f"{maildir}/tmp/{LEFT_OVER}{unique_name()}"  # noqa: S108 - the Maildir's
        self._new = -1
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            self.old = os.open(self.path, flags)
        except FileNotFoundError:
            raise Moved(f"{self.path} has gone") from None
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise TemporaryError("is a symbolic link") from None
            raise durable.error_of(exc, "cannot be read") from None
        self.found = os.fstat(self.old)

    @property
    def is_file(self) -> bool:
        """Whether it is a file at all: a link has not been opened, but a pipe may have been."""
        return stat.S_ISREG(self.found.st_mode)

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Write the new form, and begin to bring it to the disk.  It is not synced yet.

        What `pieces` raises passes through.
        """
        with _writing(self.temporary):
            self._new = durable.open_new(self.temporary, stat.S_IMODE(self.found.st_mode))
        for piece in pieces:
            with _writing(self.temporary):
                durable.write_all(self._new, piece)
        with durable.reporting("cannot keep its owner, mode and time"):
            os.fchmod(self._new, stat.S_IMODE(self.found.st_mode))
            wanted = (self.found.st_uid, self.found.st_gid)
            made = os.fstat(self._new)
            if (made.st_uid, made.st_gid) != wanted:
                os.fchown(self._new, *wanted)
            # INTERNALDATE is the time of the file.
            os.utime(self._new, ns=(self.found.st_atime_ns, self.found.st_mtime_ns))
        durable.begin_sync(self._new)

    def sync(self) -> None:
        """The new form is on disk when this returns."""
        with _writing(self.temporary):
            durable.sync_file(self._new)

    def read_back(self) -> int:
        """A descriptor of the new form, to be read from the disk as far as the kernel lets us."""
        with durable.reporting(f"cannot read {self.temporary}"):
            os.posix_fadvise(self._new, 0, 0, os.POSIX_FADV_DONTNEED)
            return os.open(self.temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def exchange(self) -> None:
        """The new form takes the name, the old one goes to tmp/."""
        self._swap()
        for _ in range(_TRIES):
            with durable.reporting(f"cannot look at {self.temporary}"):
                there = os.stat(self.temporary, follow_symlinks=False)
            if _same(there, self.found):
                return
            # Somebody has put another file under this name since it was opened: theirs comes back,
            # under whatever name Dovecot has given ours meanwhile.
            ours = self._ours()
            if ours is None:
                return  # expunged: theirs goes with it, in finish()
            try:
                durable.exchange(self.temporary, ours)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise durable.error_of(exc, f"cannot put {self.path} back") from None
            raise Moved(f"{self.path} was replaced by somebody else")
        raise Unwritable(f"{self.path} is renamed all the time")

    def _swap(self) -> None:
        try:
            durable.exchange(self.temporary, self.path)
        except FileNotFoundError:
            raise Moved(f"{self.path} has gone") from None
        except OSError as exc:
            if exc.errno in _NOT_SUPPORTED:
                raise Unwritable(
                    f"the file system of {self.maildir} cannot exchange two names",
                    hint="ext4, XFS, Btrfs and tmpfs can, NFS cannot: run this where the disk is",
                ) from None
            error = durable.error_of(exc, f"cannot replace {self.path}")
            raise error if isinstance(error, DiskFull) else Unwritable(str(error)) from None

    def _ours(self) -> str | None:
        """Where the new form is now."""
        new = os.fstat(self._new)
        found = find(self.maildir, os.path.basename(self.path))
        if found is not None:
            path = f"{self.maildir}/{found[0]}/{found[1]}"
            with contextlib.suppress(FileNotFoundError):
                there = os.stat(path, follow_symlinks=False)
                if (there.st_dev, there.st_ino) == (new.st_dev, new.st_ino):
                    return path
        return None

    def finish(self, *, shred: bool = False) -> bool:
        """Remove the old form.  The caller has synced the folder of the new one before.

        Whether it was overwritten, as far as that was asked for.
        """
        self.close()
        with durable.reporting(f"cannot remove {self.temporary}"):
            done = not shred or _overwrite(self.temporary)
            # Dovecot may have swept it, if this process was stopped for a day and a half.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)
        return done

    def discard(self) -> None:
        """Before exchange(), or after it has failed: the mail stays as it was.

        If a signal came in between, the names have changed places already.
        """
        self.close()
        with contextlib.suppress(OSError):
            if _same(os.stat(self.temporary, follow_symlinks=False), self.found):
                for part in PARTS:
                    durable.sync_folder(f"{self.maildir}/{part}")
            os.unlink(self.temporary)

    def close(self) -> None:
        """Forget about it: for a mail of which nothing was written."""
        for fd in (self.old, self._new):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.old = self._new = -1


def find(maildir: str, name: str) -> tuple[str, str] | None:
    """Where a mail is now: Dovecot keeps the name up to the colon when flags change."""
    base = name.partition(":")[0]
    for part in PARTS:
        with (
            durable.reporting(f"cannot list {maildir}/{part}"),
            os.scandir(f"{maildir}/{part}") as entries,
        ):
            for entry in entries:
                if entry.name.partition(":")[0] == base:
                    return part, entry.name
    return None


def sweep(maildir: str) -> int:
    """Remove what a run that was killed has left in tmp/; how many files.

    The caller holds the lock of the mailbox: no other run is under way.
    """
    tmp = os.path.join(maildir, "tmp")
    with durable.reporting(f"cannot sweep {tmp}"):
        try:
            with os.scandir(tmp) as entries:
                found = [entry.path for entry in entries if entry.name.startswith(LEFT_OVER)]
        except FileNotFoundError:
            durable.make_folder(tmp)
            return 0
        if found:
            for part in PARTS:
                durable.sync_folder(f"{maildir}/{part}")
        for path in found:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    return len(found)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) == (
        other.st_dev,
        other.st_ino,
        other.st_size,
        other.st_mtime_ns,
    )


def _overwrite(path: str) -> bool:
    """Zeros over the blocks of a file: see docs/sealing.md for what that is worth.

    Not if it has another name (a copy that IMAP made), nor while somebody reads it: a
    write lease (fcntl(2)) is given only when nobody else has the file open.
    """
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_nlink != 1 or not stat.S_ISREG(found.st_mode):
            return False
        # Whoever opens it now waits, and we are told by a signal that would end us.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            return False
        zeros = bytes(1 << 16)
        left = found.st_size
        while left > 0:
            left -= os.write(fd, zeros[: min(left, len(zeros))])
        durable.sync_file(fd)
    finally:
        os.close(fd)
    return True
