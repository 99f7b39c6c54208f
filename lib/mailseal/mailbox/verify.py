# SPDX-License-Identifier: MIT
"""Checks all stored mail of one user: in clear, sealed to other keys, changed.

    for report in verify(root, expected, share=(0, 2)):    # in one of two processes
        marks.add(report.marks)                             # in their parent process: replay.py

CONTRACT
    Only reads, with the rights of the process.  Links are not followed.  Links and unreadable
    files are findings, so that mail that was not checked does not count as correct.
    Mails are checked while Dovecot and clients use the mailbox.  If a rename could be the reason
    for a finding, the mail is checked again first.  new/ is read before cur/, because
    mails move in that direction.  A mail that is moved to another folder may be missed.
    Memory does not grow with the number of mails: there is a report for each REPORT_MAILS
    mails, with at most MOST_NAMED findings of one kind in a folder.

SHARES
    Process k of n takes the mails whose base name has k as its CRC-32 modulo n.  So no mail is
    missed, even if the folder changes between the listings of two processes.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Iterator, Mapping

from mailseal.errors import MailsealError
from mailseal.mailbox import clear_text, examine, uidlist
from mailseal.mailbox.examine import CHANGED, CLEAR, DAMAGED, FOREIGN, ODD, SIZE, Expected, Seen
from mailseal.mailbox.exchange import LEFT_OVER
from mailseal.mailbox.folders import Folder, walk
from mailseal.mailbox.report import TEXT, UNREADABLE, Finding, Report, uid_list_of

REPORT_MAILS = 1000
_AGAIN = frozenset((CHANGED, DAMAGED, SIZE, FOREIGN, UNREADABLE))
_MOST_AGAIN = 10_000
_ROUNDS = 5
_OLD_LOCK = 300.0
"""Seconds; Dovecot itself holds the lock for two minutes at most."""


def verify(
    root: str, expected: Expected, *, share: tuple[int, int] = (0, 1), control: str = ""
) -> Iterator[Report]:
    """Check the mails of one share; the first share includes tmp/ and files that are not mails.

    `control` is the folder in which Dovecot stores dovecot-uidlist, if it is not `root`.
    A user who has no mail yet has no Maildir.  But if the parent folders are empty too, the file
    system may not be mounted, which is a finding.
    """
    if not os.path.lexists(root):
        if share[0] == 0 and (place := _empty_above(root)):
            yield _one(Finding(UNREADABLE, "", root, f"does not exist, and {place} is empty"))
        return
    for folder in walk(root):
        if isinstance(folder, Folder):
            uid_list = uid_list_of(folder, root, control)
            yield from _Pass(folder, expected, share, uid_list).reports()
        elif share[0] == 0:
            yield _one(Finding(UNREADABLE, "", folder.path, f"{folder.why}; not checked"))
    if share[0] == 0:
        yield from texts(root)


def _empty_above(path: str) -> str | None:
    """The nearest existing parent folder, if it is empty or unreadable; otherwise None."""
    above = os.path.dirname(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    try:
        return None if os.listdir(above) else above
    except OSError:
        return above


def texts(root: str, *, below: bool = True) -> Iterator[Report]:
    """Files of Dovecot in a folder that contain text in clear."""
    for path, what in clear_text.search(root, below=below):
        yield _one(Finding(TEXT, "", path, f"{what}: delete it"))


def _one(finding: Finding) -> Report:
    report = Report()
    report.add(finding)
    return report


class _Pass:
    """One share of one folder."""

    def __init__(
        self, folder: Folder, expected: Expected, share: tuple[int, int], uid_list: str
    ) -> None:
        self._folder = folder
        self._expected = expected
        self._share = share
        self._uid_list = uid_list
        self._report = Report()
        self._found = Report()
        self._again: dict[str, bool] = {}
        """Base names of mails to check again, and whether each was counted already."""

    def reports(self) -> Iterator[Report]:
        """See verify()."""
        yield from self._mails(None)
        for _ in range(_ROUNDS):
            if not self._again:
                break
            again, self._again = self._again, {}
            yield from self._mails(again)
        if self._share[0] == 0:
            self._tmp()
            self._lock()
        report, found = self._report, self._found
        found.give_uids(self._folder, self._uid_list)
        report.counts, report.findings = found.counts, found.findings
        yield report

    def _mails(self, again: Mapping[str, bool] | None) -> Iterator[Report]:
        number, of = self._share
        for part in ("new", "cur"):
            for path, name in self._listed(part):
                base = uidlist.base_of(name)
                if again is not None:
                    if base in again:
                        self._check(path, base, counted=again[base], again=True)
                elif of == 1 or zlib.crc32(os.fsencode(base)) % of == number:
                    self._check(path, base)
                    if self._report.mails >= REPORT_MAILS:
                        yield self._report
                        self._report = Report()

    def _listed(self, part: str) -> Iterator[tuple[str, str]]:
        where = f"{self._folder.path}/{part}"
        try:
            with os.scandir(where) as entries:
                for entry in entries:
                    yield entry.path, entry.name
        except FileNotFoundError:
            return
        except OSError as exc:
            self._add(UNREADABLE, where, f"cannot be listed: {exc.strerror}")

    def _check(self, path: str, base: str, *, counted: bool = False, again: bool = False) -> None:
        try:
            seen = examine.look(path, self._expected)
        except FileNotFoundError:
            self._again[base] = counted
            return
        except MailsealError as exc:
            seen = Seen(0, 1, (0, 0), problem=(UNREADABLE, str(exc)))
        if not counted:
            self._report.mails += 1
            self._report.size += seen.size
            if seen.mark:
                self._report.marks.append(seen.mark)
        if seen.problem is None:
            return
        kind, text = seen.problem
        if not again and kind in _AGAIN and len(self._again) < _MOST_AGAIN:
            self._again[base] = True
        else:
            self._add(kind, path, text)

    def _tmp(self) -> None:
        """Check mails that are being delivered: they may be incomplete, but not in clear."""
        for path, name in self._listed("tmp"):
            try:
                problem = examine.look(path, self._expected).problem
            except FileNotFoundError:
                continue
            except MailsealError as exc:
                problem = UNREADABLE, str(exc)
            if problem is not None and problem[0] in (CLEAR, ODD, UNREADABLE):
                self._add(problem[0], path, f"{problem[1]} ({_of_tmp(name)})")

    def _lock(self) -> None:
        """Find a lock file that Dovecot has left at a power cut."""
        path = f"{self._uid_list}.lock"
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            if found.st_size == 0 and time.time() - found.st_mtime > _OLD_LOCK:
                why = "an empty lock file: the next SELECT waits two minutes for it; remove it"
                self._add(ODD, path, why)

    def _add(self, kind: str, path: str, text: str) -> None:
        self._found.add(Finding(kind, self._folder.name, path, text))


def _of_tmp(name: str) -> str:
    if name.startswith(LEFT_OVER):
        return "in tmp/, of a running or interrupted `mailseal seal`: run that again"
    return "in tmp/, not a mail of the mailbox"
