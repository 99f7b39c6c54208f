# SPDX-License-Identifier: MIT
"""Maildir: file names like Dovecot's, and deliveries that survive a power failure.

    staged = stage(maildir, pieces)            # tmp/, written, not yet synced
    staged.sizes = ",S=…,W=…"
    errors = store([staged, …])               # synced, in new/, folders synced

CONTRACT
    store() returns one entry for each mail.  None: the mail is complete in new/, and both
    file and name are on disk.  An error: it is not in new/ (it was removed again if
    necessary), and no file is left in tmp/.
    Several mails for one folder share the sync of that folder.

FAILURES
    DiskFull or TemporaryError.  If the folder cannot be synced after the rename, and the
    mail cannot be removed either, it stays in new/ although it was not accepted: then it
    is delivered twice, but never lost.

Names are `<sec>.M<usec>P<pid>Q<n>.<host>,S=<bytes>,W=<bytes with CRLF>`.  The sizes are
those of the plaintext (docs/design.md, decision 5).  The counter makes names unique that one
process makes in the same microsecond.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import socket
import time
from collections.abc import Iterable, Sequence

from mailseal import durable
from mailseal.errors import MailsealError

FOLDER_MODE = 0o700
FILE_MODE = 0o600
_SUBFOLDERS = ("cur", "new", "tmp")

_counter = itertools.count()


def _host() -> str:
    """This host's name, with the characters escaped that have a meaning in Maildir names."""
    return socket.gethostname().replace("/", "\\057").replace(":", "\\072").replace(",", "\\054")


_HOST = _host()


def unique_name() -> str:
    """A base name that is unique on this host."""
    micro = time.time_ns() // 1000
    count = next(_counter)
    return f"{micro // 1_000_000}.M{micro % 1_000_000:06d}P{os.getpid()}Q{count}.{_HOST}"


@dataclasses.dataclass(slots=True)
class Staged:
    """A mail in tmp/, complete but not durable.  Ends with store() or discard()."""

    maildir: str
    name: str
    fd: int = -1
    sizes: str = ""
    """The end of the name in new/: ",S=…,W=…", or empty."""
    moved: bool = False

    @property
    def temporary(self) -> str:
        """Its path in tmp/."""
        return f"{self.maildir}/tmp/{self.name}"  # noqa: S108 - the Maildir's own

    @property
    def target(self) -> str:
        """Its path in new/."""
        return f"{self.maildir}/new/{self.name}{self.sizes}"


def stage(maildir: str, pieces: Iterable[bytes | memoryview]) -> Staged:
    """Write a mail into tmp/.

    Makes the Maildir if it does not exist.  After an error no file is left.
    """
    staged = Staged(maildir, unique_name())
    with durable.reporting(f"cannot write to {maildir}"):
        try:
            staged.fd = durable.open_new(staged.temporary, FILE_MODE)
        except FileNotFoundError:
            create(maildir)
            staged.fd = durable.open_new(staged.temporary, FILE_MODE)
        try:
            for piece in pieces:
                durable.write_all(staged.fd, piece)
        except BaseException:
            discard(staged)
            raise
    return staged


def discard(staged: Staged) -> None:
    """Remove a mail that was not stored."""
    if staged.fd >= 0:
        with contextlib.suppress(OSError):
            os.close(staged.fd)
        staged.fd = -1
    with contextlib.suppress(OSError):
        os.unlink(staged.target if staged.moved else staged.temporary)


def store(mails: Sequence[Staged]) -> list[MailsealError | None]:
    """Make mails durable and visible; see CONTRACT."""
    errors: list[MailsealError | None] = [None] * len(mails)
    folders: dict[str, list[int]] = {}
    for number, mail in enumerate(mails):
        try:
            fd, mail.fd = mail.fd, -1
            try:
                durable.sync_file(fd)
            finally:
                os.close(fd)
            durable.move(mail.temporary, mail.target)
            mail.moved = True
        except OSError as exc:
            errors[number] = durable.error_of(exc, f"cannot deliver to {mail.maildir}")
            discard(mail)
            continue
        folders.setdefault(mail.maildir, []).append(number)
    for maildir, numbers in folders.items():
        try:
            durable.sync_folder(f"{maildir}/new")
        except OSError as exc:
            error = durable.error_of(exc, f"cannot sync {maildir}/new")
            for number in numbers:
                errors[number] = error
                discard(mails[number])
    return errors


def create(maildir: str) -> None:
    """Make a Maildir, and the folders above it that are missing, as Dovecot does: mode 0700."""
    missing = []
    path = maildir
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        missing.append(path)
        path = os.path.dirname(path)
    # The process that made this folder may not have synced it yet.  If the folder cannot be read,
    # it cannot be synced; then it was not made by a process of this user.
    above = os.path.dirname(path)
    with durable.reporting(f"cannot sync {above}"), contextlib.suppress(PermissionError):
        durable.sync_folder(above)
    for path in reversed(missing):
        durable.make_folder(path, mode=FOLDER_MODE)
    for name in _SUBFOLDERS:
        durable.make_folder(f"{maildir}/{name}", mode=FOLDER_MODE)


def is_maildir(path: str) -> bool:
    """Whether `path` is a Maildir with all its subfolders."""
    return all(os.path.isdir(f"{path}/{name}") for name in _SUBFOLDERS)
