# SPDX-License-Identifier: MIT
"""Replaces the file of a stored mail, under the same name, while the mailbox is in use.

    work = Replacement(folder, "cur", name)    # opens the mail
    work.write(pieces)                         # writes the new file to tmp/, with the old times
    work.sync()                                # waits until it is on disk
    work.read_back()                           # then the caller reads work.new and compares it
    work.exchange()                            # exchanges the two names in one system call
    work.finish()                              # removes the old file, after the folder was synced

CONTRACT
    At every moment the mailbox contains exactly one file with the mail's name, and at least one
    complete copy of the mail is on disk.  After a crash the mailbox has the old or the new file,
    and there may be a file in tmp/ whose name begins with LEFT_OVER.
    renameat2(2) with RENAME_EXCHANGE exchanges two names, and fails if one of them does not
    exist.  So if Dovecot changes a flag in the meantime, which is a rename, this is never undone.

WHY A LEFT-OVER IS NEVER THE ONLY COPY
    Before the exchange it is the new file, and the old one has the mail's name.  After the
    exchange it is the old file, and the new one, which was synced before, has the mail's name.
    sweep() syncs the folders first, so the exchange is on disk before the left-over is removed.

FAILURES
    Moved: the name does not exist any more, because Dovecot has renamed or removed the mail.
    Unwritable: the new file cannot be written.  NotConvertible: the file system cannot exchange
    names (for example NFS).
    DiskFull.  TemporaryError for problems of this mail only.
    After each of these, discard() restores the state before.
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
from mailseal.crypto.dcrypt import MAX_HEADER
from mailseal.errors import DiskFull, MailsealError, NotConvertible, TemporaryError
from mailseal.mailbox.folders import PARTS, is_gone
from mailseal.mailbox.maildir import unique_name

LEFT_OVER = "mailseal-convert."
"""The names of mailseal's files in tmp/ begin with this."""

_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
_TRIES = 20

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""The owner of the mail may have put a link, a pipe or a device there."""


class Moved(MailsealError):
    """The mail was renamed or removed in the meantime."""


class Unwritable(TemporaryError):
    """No mail can be converted here."""


class _writing:  # noqa: N801 - used like durable.reporting
    """Convert each OSError in the block to DiskFull or Unwritable."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if isinstance(exc, OSError):
            raise _unwritable(exc, f"cannot write to {self._path}") from None


def _unwritable(exc: OSError, doing: str) -> MailsealError:
    error = durable.error_of(exc, doing)
    return error if isinstance(error, DiskFull) else Unwritable(str(error))


class Replacement:
    """One mail whose file is being replaced.  Ends with finish() or discard()."""

    def __init__(self, maildir: str, part: str, name: str) -> None:
        self.maildir = maildir
        self.path = f"{maildir}/{part}/{name}"
        self.temporary = ""
        self.new = -1
        try:
            self.old = os.open(self.path, _READ)
        except FileNotFoundError:
            raise Moved(f"{self.path} does not exist any more") from None
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise TemporaryError("is a symbolic link") from None
            raise durable.error_of(exc, "cannot be read") from None
        self.found = os.fstat(self.old)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file.  Links are never opened, but it could be a pipe."""
        return stat.S_ISREG(self.found.st_mode)

    def is_unchanged(self) -> bool:
        """Whether nobody has written to the old file since it was opened."""
        return _same(os.fstat(self.old), self.found)

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Write the new file and start writing it to the disk.  It is not synced yet.

        Errors that `pieces` raises are passed on.
        """
        self.temporary = f"{self.maildir}/tmp/{LEFT_OVER}{unique_name()}"  # noqa: S108 - the Maildir's
        with _writing(self.temporary):
            self.new = durable.open_new(self.temporary, stat.S_IMODE(self.found.st_mode))
        for piece in pieces:
            with _writing(self.temporary):
                durable.write_all(self.new, piece)
        with durable.reporting("cannot keep its owner, mode and time"):
            made, found = os.fstat(self.new), self.found
            if (made.st_uid, made.st_gid) != (found.st_uid, found.st_gid):
                os.fchown(self.new, found.st_uid, found.st_gid)
            if made.st_mode != found.st_mode:
                os.fchmod(self.new, stat.S_IMODE(found.st_mode))
            # INTERNALDATE is the time of the file.
            os.utime(self.new, ns=(self.found.st_atime_ns, self.found.st_mtime_ns))
        durable.begin_sync(self.new)

    def sync(self) -> None:
        """Sync the new file: when this returns, it is on disk."""
        with _writing(self.temporary):
            durable.sync_file(self.new)

    def read_back(self) -> None:
        """Let the kernel forget the new file and read it again, from the disk if it can.

        It does not wait for the disk: for 64 files this and reading them took 2 ms instead of 34.
        """
        with durable.reporting(f"cannot read {self.temporary}"):
            os.posix_fadvise(self.new, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(self.new, 0, 0, os.POSIX_FADV_WILLNEED)

    def exchange(self) -> None:
        """Exchange the names: the new file gets the mail's name, the old one a name in tmp/."""
        self._swap()
        for _ in range(_TRIES):
            with durable.reporting(f"cannot look at {self.temporary}"):
                there = os.stat(self.temporary, follow_symlinks=False)
            if _same(there, self.found):
                return
            # Since it was opened, somebody has put another file at this name.  Put that file back,
            # under the name that Dovecot has given to our file in the meantime.
            ours = self._ours()
            if ours is None:
                return  # the mail was expunged: finish() removes that file too
            try:
                durable.exchange(self.temporary, ours)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise durable.error_of(exc, f"cannot put {self.path} back") from None
            raise Moved(f"{self.path} was replaced by somebody else")
        raise Unwritable(f"{self.path} was renamed too often")

    def _swap(self) -> None:
        try:
            durable.exchange(self.temporary, self.path)
        except FileNotFoundError:
            raise Moved(f"{self.path} does not exist any more") from None
        except OSError as exc:
            if exc.errno in _NOT_SUPPORTED:
                raise NotConvertible(
                    f"the file system of {self.maildir} cannot exchange two names",
                    hint="ext4, XFS, Btrfs and tmpfs can, NFS cannot; run this on the NFS server",
                ) from None
            raise _unwritable(exc, f"cannot replace {self.path}") from None

    def _ours(self) -> str | None:
        """The present path of the new file."""
        new = os.fstat(self.new)
        found = find(self.maildir, os.path.basename(self.path))
        if found is not None:
            path = f"{self.maildir}/{found[0]}/{found[1]}"
            with contextlib.suppress(FileNotFoundError):
                there = os.stat(path, follow_symlinks=False)
                if (there.st_dev, there.st_ino) == (new.st_dev, new.st_ino):
                    return path
        return None

    def finish(self, *, shred: bool = False) -> bool:
        """Remove the old file.  The caller has synced the folder of the new one before.

        Returns False if `shred` was set and the file could not be overwritten.
        """
        self.close()
        with durable.reporting(f"cannot remove {self.temporary}"):
            done = not shred or overwrite(self.temporary)
            # Dovecot removes files in tmp/ after 36 hours, if this process was stopped so long.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)
        return done

    def discard(self) -> None:
        """Give up before exchange(), or after it has failed: the mail is not changed.

        If a signal arrived in between, the names may be exchanged already.
        """
        self.close()
        if not self.temporary:
            return
        with contextlib.suppress(OSError):
            if _same(os.stat(self.temporary, follow_symlinks=False), self.found):
                for part in PARTS:
                    durable.sync_folder(f"{self.maildir}/{part}")
            os.unlink(self.temporary)

    def close(self) -> None:
        """Close the files; enough if nothing was written."""
        for fd in (self.old, self.new):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.old = self.new = -1


def find(maildir: str, name: str) -> tuple[str, str] | None:
    """Where a mail is now.  When flags change, Dovecot keeps the name up to the colon."""
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
    """Remove the files that a killed run has left in tmp/.  Returns their number.

    The caller holds the lock of the mailbox, so there is no other run.
    """
    tmp = os.path.join(maildir, "tmp")
    with durable.reporting(f"cannot sweep {tmp}"):
        try:
            with os.scandir(tmp) as entries:
                found = [entry.path for entry in entries if entry.name.startswith(LEFT_OVER)]
        except FileNotFoundError:
            if not is_gone(maildir):
                durable.make_folder(tmp)
            return 0
        if found:
            for part in PARTS:
                durable.sync_folder(f"{maildir}/{part}")
        for path in found:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    return len(found)


def arriving(maildir: str, since: float) -> Iterator[bytes]:
    """The beginning of each mail in tmp/ that was made or changed since then.

    It will be moved to cur/ or new/ soon.  A client's COPY, too, first links the mail into tmp/.
    """
    with contextlib.suppress(OSError), os.scandir(os.path.join(maildir, "tmp")) as entries:
        for entry in entries:
            if entry.name.startswith(LEFT_OVER) or not entry.is_file(follow_symlinks=False):
                continue
            with (
                contextlib.suppress(OSError),
                open(os.open(entry.path, _READ), "rb") as stream,
            ):
                if os.fstat(stream.fileno()).st_ctime > since:
                    yield stream.read(MAX_HEADER)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) == (
        other.st_dev,
        other.st_ino,
        other.st_size,
        other.st_mtime_ns,
    )


def overwrite(path: str) -> bool:
    """Overwrite a file with zeros.  docs/sealing.md says when this helps.

    It is not overwritten if it has another hard link (from an IMAP COPY) or is being read: the
    kernel gives a write lease (fcntl(2)) only if nobody else has the file open.
    """
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_nlink != 1 or not stat.S_ISREG(found.st_mode):
            return False
        # A process that opens it now must wait, and we get this signal.  SIGIO would kill us.
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
