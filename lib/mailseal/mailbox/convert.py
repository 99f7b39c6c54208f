# SPDX-License-Identifier: MIT
"""Converts existing mail to another form (forms.py), in groups.

    tally = Tally()
    convert(folder_path, [("cur", name), …], form, tally, locks=locks)

CONTRACT
    Content, name, times, owner and mode of a mail do not change, only its form (exchange.py).
    Before the old file is removed, the new one has been synced, read back, opened, and compared
    with the old one.  A mail that already has the wanted form is not changed.  So a second
    run changes nothing, and a run after an interruption continues the work.
    Mail that cannot be converted (sealed to a key that is not available, damaged, a link) is
    not changed, but counted and listed.

GROUPS
    All mails of a group are written, then synced (several at a time), compared and exchanged.
    Then the folder is synced, and only after that the old files are removed.  This takes one sync
    for each folder and group instead of two for each mail, and while the first file is synced, the
    kernel already writes the others.
    On Btrfs and others the exchanges of a group are made under a lock of Dovecot's (listing.py),
    which is held for about 8 ms.

FAILURES
    A failure of one mail is counted in the tally, and the work continues.  These stop it:
    DiskFull, Unwritable, and Damaged (the data read back are not the data written).
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from mailseal import durable
from mailseal.crypto import dcrypt
from mailseal.errors import Damaged, DiskFull, MailsealError, NoKey, NotSealed
from mailseal.mailbox.exchange import Moved, Replacement, Unwritable, find
from mailseal.mailbox.folders import PARTS
from mailseal.mailbox.forms import Form, Work
from mailseal.mailbox.listing import Locks, kept_out

GROUP_MAILS = 64
GROUP_BYTES = 32 << 20
"""A group ends after this many mails, or with the mail with which it reaches this many bytes."""

_AT_ONCE = 8
"""Files that are synced at the same time.  The kernel combines their flushes of the disk's cache:
64 files took 74 ms one after the other, 16 ms with 8 threads, 15 ms with 16 (ext4)."""

_BUFFER = 4096
"""Bytes.  Larger reads go past the buffer."""

_TRIES = 20
MOST_PROBLEMS = 1000


@dataclasses.dataclass
class Tally:
    """What was done and what was not.  Sizes are in bytes of the old files."""

    converted: int = 0
    converted_bytes: int = 0
    already: int = 0
    gone: list[str] = dataclasses.field(default_factory=list)
    """Names that did not exist any more: removed, moved, or renamed while the folder was listed.
    In the last case the next pass finds them."""
    left: int = 0
    """Not converted; `problems` lists the first 1,000, with the reason."""
    not_overwritten: int = 0
    """Converted, but the old file could not be overwritten: in use, or with another hard link."""
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    @property
    def seen(self) -> int:
        """Number of mails processed, with any result."""
        return self.converted + self.already + len(self.gone) + self.left

    def leave(self, path: str, why: str) -> None:
        """Note a mail or folder that is not converted."""
        self.left += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append((path, why))

    def add(self, other: Tally) -> None:
        """Add the tally of another process."""
        self.converted += other.converted
        self.converted_bytes += other.converted_bytes
        self.already += other.already
        self.gone += other.gone
        self.left += other.left
        self.not_overwritten += other.not_overwritten
        self.problems += other.problems[: MOST_PROBLEMS - len(self.problems)]


@dataclasses.dataclass
class _Mail:
    replacement: Replacement
    part: str
    name: str
    work: Work


def convert(
    maildir: str,
    names: Sequence[tuple[str, str]],
    form: Form,
    tally: Tally,
    *,
    locks: Locks,
    shred: bool = False,
) -> None:
    """Convert mails of one folder, given as ("cur" or "new", name).

    `locks`: the files of Dovecot with the folder's locks, see listing.py.
    """
    waiting = deque(names)
    while waiting:
        group: list[_Mail] = []
        full: DiskFull | None = None
        size = 0
        try:
            while waiting and len(group) < GROUP_MAILS and size < GROUP_BYTES:
                mail = _begun(maildir, *waiting.popleft(), form, tally)
                if mail is not None:
                    group.append(mail)
                    size += mail.replacement.found.st_size
        except DiskFull as exc:
            full = exc  # the mails written before are complete
        except BaseException:
            _discard(group)
            raise
        _finish(maildir, locks, group, tally, shred)
        if full is not None:
            raise full


def examine(maildir: str, part: str, name: str, form: Form, tally: Tally) -> None:
    """Count what convert() would do with a mail.  Writes nothing."""
    try:
        mail = Replacement(maildir, part, name)
    except Moved:
        tally.gone.append(name)
        return
    except MailsealError as exc:
        tally.leave(f"{maildir}/{part}/{name}", str(exc))
        return
    try:
        work = _work(mail, form)
    except MailsealError as exc:
        tally.leave(mail.path, str(exc))
    else:
        tally.already += work is None
        tally.converted += work is not None
        tally.converted_bytes += 0 if work is None else mail.found.st_size
    finally:
        mail.close()


def _work(mail: Replacement, form: Form) -> Work | None:
    if not mail.is_file:
        raise NotSealed("is not a file")
    with durable.reporting("cannot be read"):
        start = os.pread(mail.old, dcrypt.MAX_HEADER, 0)
    return form.work(start)


def _begun(maildir: str, part: str, name: str, form: Form, tally: Tally) -> _Mail | None:
    """Write the new file of one mail, if it must be converted."""
    path = f"{maildir}/{part}/{name}"
    for _ in range(_TRIES):
        try:
            replacement = Replacement(maildir, part, name)
        except Moved:
            found = find(maildir, name)
            if found is None:
                tally.gone.append(name)
                return None
            part, name = found
            continue
        except MailsealError as exc:
            tally.leave(path, str(exc))
            return None
        return _written(replacement, part, name, form, tally)
    tally.leave(path, "was renamed too often")
    return None


def _written(
    replacement: Replacement, part: str, name: str, form: Form, tally: Tally
) -> _Mail | None:
    try:
        work = _work(replacement, form)
        if work is None:
            tally.already += 1
            replacement.close()
            return None
        with _reader(replacement.old) as old:
            replacement.write(work.form(_read(work.plain(old))))
    except (DiskFull, Unwritable):
        replacement.discard()
        raise
    except MailsealError as exc:
        tally.leave(replacement.path, str(exc))
        replacement.discard()
        return None
    except BaseException:
        replacement.discard()
        raise
    return _Mail(replacement, part, name, work)


def _reader(fd: int) -> BinaryIO:
    return open(fd, "rb", buffering=_BUFFER, closefd=False)


def _read(pieces: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        with durable.reporting("cannot be read"):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _finish(maildir: str, locks: Locks, group: list[_Mail], tally: Tally, shred: bool) -> None:
    """Sync, compare, exchange, sync the folder, and only then remove the old files."""
    try:
        _sync(group)
        for mail in group:
            mail.replacement.read_back()
        waiting = deque(mail for mail in group if _is_same(mail, tally))
    except BaseException:
        _discard(group)
        raise
    exchanged: list[_Mail] = []
    try:
        if waiting:
            with kept_out(maildir, locks):
                while waiting:
                    if _exchanged(maildir, waiting[0], tally):
                        exchanged.append(waiting[0])
                    waiting.popleft()
    except BaseException:
        _discard(waiting)
        _settle(maildir, exchanged, tally, shred)
        raise
    _settle(maildir, exchanged, tally, shred)


def _sync(group: Sequence[_Mail]) -> None:
    """Sync the new files, several at a time."""
    at_once = min(_AT_ONCE, len(group))

    def some(number: int) -> None:
        for mail in group[number::at_once]:
            mail.replacement.sync()

    if at_once < 2:
        for mail in group:
            mail.replacement.sync()
        return
    with ThreadPoolExecutor(at_once) as threads:
        for done in [threads.submit(some, number) for number in range(at_once)]:
            done.result()


def _exchanged(maildir: str, mail: _Mail, tally: Tally) -> bool:
    """Exchange the files.  If Dovecot has renamed the mail, use its new name."""
    for _ in range(_TRIES):
        try:
            mail.replacement.exchange()
        except Moved:
            found = find(maildir, mail.name)
            if found is None:
                tally.gone.append(mail.name)
                mail.replacement.discard()
                return False
            mail.part, mail.name = found
            mail.replacement.path = f"{maildir}/{mail.part}/{mail.name}"
        else:
            return True
    tally.leave(mail.replacement.path, "was renamed too often")
    mail.replacement.discard()
    return False


def _settle(maildir: str, exchanged: Sequence[_Mail], tally: Tally, shred: bool) -> None:
    # Both folders: Dovecot may have moved a mail from new/ to cur/ in the meantime.
    for part in PARTS if exchanged else ():
        with durable.reporting(f"cannot sync {maildir}/{part}"):
            durable.sync_folder(f"{maildir}/{part}")
    for mail in exchanged:
        if not mail.replacement.finish(shred=shred):
            tally.not_overwritten += 1
        tally.converted += 1
        tally.converted_bytes += mail.replacement.found.st_size


def _discard(mails: Sequence[_Mail] | deque[_Mail]) -> None:
    for mail in mails:
        mail.replacement.discard()


def _is_same(mail: _Mail, tally: Tally) -> bool:
    """Read the new file back from the disk, open it, and compare it with the old one.

    False: the old one was changed meanwhile, and nothing is done with it.
    """
    replacement = mail.replacement
    with (
        durable.reporting(f"cannot compare {replacement.temporary}"),
        _reader(replacement.old) as old,
        _reader(replacement.new) as new,
    ):
        try:
            same = _alike(mail.work.plain(old), mail.work.check(new))
        except (Damaged, NotSealed, NoKey):
            same = False
    if not same:
        if replacement.is_unchanged():
            raise Damaged(f"{replacement.temporary} is not what was written")
        tally.leave(replacement.path, "was changed by another program meanwhile")
        replacement.discard()
    return same


def _alike(one: Iterator[bytes], other: Iterator[bytes]) -> bool:
    """Whether both have the same bytes; the sizes of the pieces may differ."""
    a = b = b""
    while True:
        a, b = a or next(one, b""), b or next(other, b"")
        size = min(len(a), len(b))
        if a[:size] != b[:size] or not size:
            return not a and not b
        a, b = a[size:], b[size:]
