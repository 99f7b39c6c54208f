# SPDX-License-Identifier: MIT
"""Finds sealed mail that is stored twice: an old mail that somebody has put back under a new name.

A message secret is used for one mail only, and without the private key nobody can wrap it
again.  So two files with the same wrapped secret are the same sealed mail.  Dovecot does not
make such files: COPY makes hard links, which are one file, or seals the mail again, and so
do doveadm and dsync.  Copying files makes them, for example restoring a backup.

If the mail itself was removed and an old copy of it put back, there is only one file, and
nothing is found.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Container, Iterator

from mailseal import durable
from mailseal.errors import MailsealError
from mailseal.mailbox import examine
from mailseal.mailbox.examine import Expected
from mailseal.mailbox.folders import Folder, walk
from mailseal.mailbox.report import TWICE, Finding, Report, uid_list_of


class Marks:
    """Finds marks that occur twice.  Keeps 8 bytes of each, as a number: 70 MB for a million."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.doubled: set[bytes] = set()

    def add(self, marks: list[bytes]) -> None:
        """Add the marks of one report."""
        for mark in marks:
            number = int.from_bytes(mark[:8], "big")
            if number in self._seen:
                self.doubled.add(mark)
            self._seen.add(number)


def sealed_alike(
    root: str, expected: Expected, marks: Container[bytes], *, control: str = ""
) -> Iterator[Report]:
    """Report mails with these marks that are several files, not several links to one file.

    All but the oldest are reported.  There is one report for each folder.
    """
    files: dict[bytes, dict[tuple[int, int], tuple[int, str, Folder]]] = {}
    for folder in walk(root):
        if isinstance(folder, Folder):
            for path in _mails(folder):
                if found := _mark(path, expected):
                    mark, inode, time = found
                    if mark in marks:
                        files.setdefault(mark, {})[inode] = (time, path, folder)
    reports: dict[Folder, Report] = {}
    for alike in files.values():
        (_, first, _), *others = sorted(alike.values(), key=lambda one: one[:2])
        for _, path, folder in others:
            text = f"is the same sealed mail as {first}: restored, or put back by somebody"
            reports.setdefault(folder, Report()).add(Finding(TWICE, folder.name, path, text))
    for folder, report in reports.items():
        report.give_uids(folder, uid_list_of(folder, root, control))
        yield report


def _mails(folder: Folder) -> Iterator[str]:
    for part in ("new", "cur"):
        where = f"{folder.path}/{part}"
        with durable.reporting(f"cannot list {where}"), os.scandir(where) as entries:
            for entry in entries:
                yield entry.path


def _mark(path: str, expected: Expected) -> tuple[bytes, tuple[int, int], int] | None:
    """Mark, inode and time of a mail.  The content is not opened again."""
    try:
        seen = examine.look(path, dataclasses.replace(expected, keys=(), elsewhere=None))
        return seen.mark, seen.inode, os.lstat(path).st_mtime_ns
    except (OSError, MailsealError):
        return None  # removed, or reported already
