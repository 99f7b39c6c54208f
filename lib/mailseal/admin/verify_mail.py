# SPDX-License-Identifier: MIT
"""Checks all mail of one user, in several processes that run as its owner."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence

from mailseal.admin import crew
from mailseal.admin.crew import Job, Message
from mailseal.admin.mail_place import Place
from mailseal.admin.verify_result import Result, marks_of, message_of
from mailseal.errors import TemporaryError
from mailseal.mailbox import replay, verify
from mailseal.mailbox.examine import Expected
from mailseal.mailbox.folders import Folder, walk
from mailseal.mailbox.report import Report


class Examination:
    """Checks one user's mail.  Findings go to `result`; `show` gets the numbers done and total."""

    def __init__(
        self,
        result: Result,
        place: Place,
        expected: Expected,
        jobs: int,
        show: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._result = result
        self._place = place
        self._expected = expected
        self._jobs = jobs
        self._show = show

    def run(self, more: Sequence[str]) -> None:
        """Check the user's Maildir, further ones, and Dovecot's files elsewhere."""
        if os.geteuid() == 0 and self._place.owner[0] == 0:
            self._result.cannot("the mail belongs to root; mailseal does not read mail as root")
            return
        for root in more:
            if not os.path.isdir(root):
                self._result.cannot(f"{root} is not a folder")
        total = 0
        for message in self._all(more):
            if "total" in message:
                total += message["total"]
            else:
                self._result.take(message)
            self._show(self._result.mails, total)

    def _all(self, more: Sequence[str]) -> Iterator[Message]:
        place = self._place
        for files in (place.files, *place.others):
            yield from self._maildir(files.maildir, files.control)
        for root in map(os.path.abspath, more):
            yield from self._maildir(root, "")
        yield from self._as_owner([functools.partial(_texts, place)])

    def _maildir(self, root: str, control: str) -> Iterator[Message]:
        marks = replay.Marks()
        shares = [
            functools.partial(_share, root, self._expected, (number, self._jobs), control)
            for number in range(self._jobs)
        ]
        yield from self._as_owner([functools.partial(_total, root)])
        for message in self._as_owner(shares):
            marks.add(marks_of(message))
            yield message
        if marks.doubled:
            same = functools.partial(_alike, root, self._expected, marks.doubled, control)
            yield from self._as_owner([same])

    def _as_owner(self, jobs: Sequence[Job]) -> Iterator[Message]:
        return crew.run(self._place.owner if os.geteuid() == 0 else None, jobs)


def _total(root: str) -> Iterator[Message]:
    """For the progress bar only: unreadable folders are reported later."""
    for folder in walk(root):
        if isinstance(folder, Folder):
            with contextlib.suppress(TemporaryError):
                yield {"total": sum(1 for _ in folder.mails())}


def _share(
    root: str, expected: Expected, share: tuple[int, int], control: str
) -> Iterator[Message]:
    return map(message_of, verify.verify(root, expected, share=share, control=control))


def _alike(root: str, expected: Expected, marks: set[bytes], control: str) -> Iterator[Message]:
    return map(message_of, replay.sealed_alike(root, expected, marks, control=control))


def _texts(place: Place) -> Iterator[Message]:
    """Search the home directory and the folder of the index files for text in clear."""
    reports: list[Iterator[Report]] = []
    if place.home and not place.home.startswith(place.maildir):
        reports.append(verify.texts(place.home, below=False))
    reports += [verify.texts(index) for index in place.indexes]
    return (message_of(report) for found in reports for report in found)
