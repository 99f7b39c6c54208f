# SPDX-License-Identifier: MIT
"""Converts a whole mailbox: every folder, with several processes.

    with held(root):
        report = run(root, form, jobs=2)

CONTRACT
    Only one run at a time works on a mailbox: each process of the run holds a flock(2) on its
    folder.  Files that a killed run has left in tmp/ are removed when the next run starts.
    There are passes over the mailbox until one finds no mail to convert, no mail that has vanished
    since it was listed, and no new mail in tmp/.  So mail that arrives or is moved during the run
    is found too.  A mail that an earlier pass has looked at may vanish: its copies are as it was.
    The processes are made with fork(2), so private keys are never passed through a pipe or a
    file.  They end when their parent process ends.

MEMORY
    One number for each mail: 100,000 mails take 8 MB.  Names are passed on in groups and not kept.

FAILURES
    Busy: another run holds the mailbox.  NotConvertible: it is of no use to try again.  Other
    errors of convert() stop the run; see `report.stopped`.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from mailseal import durable
from mailseal.errors import MailsealError, NotConvertible, TemporaryError
from mailseal.mailbox.convert import GROUP_MAILS, Tally, convert, examine
from mailseal.mailbox.exchange import arriving, sweep
from mailseal.mailbox.folders import Folder, Skipped, is_gone, walk
from mailseal.mailbox.forms import Form
from mailseal.mailbox.listing import NOWHERE, Elsewhere, Locks
from mailseal.mailbox.pace import Pace
from mailseal.mailbox.uidlist import base_of

_PATIENCE = 10.0
_DOUBT = 60.0
_PAUSE = 0.05
"""Seconds.  How long to go on after the first pass while mail to convert is found; and while this
is not sure, because clients move mail during each pass; and between the first two passes."""
_PASSES = 4
"""After the first one at least so many: in a large mailbox a pass takes longer than _PATIENCE."""

_POLITE_GROUP = 8
"""Mails that are written and synced together if others must not wait long for the disk."""

_PR_SET_PDEATHSIG = 1


class Busy(TemporaryError):
    """Another run is working on this mailbox."""


@dataclasses.dataclass
class Report:
    """The result for one mailbox."""

    tally: Tally = dataclasses.field(default_factory=Tally)
    total: int = 0
    """Number of mails at the start."""
    folders: int = 0
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    gone: int = 0
    """How often a listed mail did not exist any more."""
    swept: int = 0
    """Number of files that a killed run had left in tmp/."""
    seconds: float = 0.0
    stopped: str = ""
    """Why the run ended early, if it did."""

    @property
    def nothing_left(self) -> bool:
        """Whether every mail has the wanted form now."""
        return not (self.tally.left or self.skipped or self.stopped)


@contextlib.contextmanager
def held(root: str) -> Iterator[None]:
    """Lock a mailbox against other runs.  Raises Busy."""
    if os.path.islink(root):
        raise NotConvertible(
            f"{root} is a symbolic link", hint="set Dovecot's mail location to its target"
        )
    with durable.reporting(f"cannot open {root}"):
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"another run is working on {root}", hint="wait until it has ended"
            ) from None
        yield
    finally:
        os.close(fd)


def run(
    root: str,
    form: Form,
    *,
    jobs: int = 1,
    shred: bool = False,
    rate: int = 0,
    elsewhere: Elsewhere = NOWHERE,
) -> Report:
    """Convert every mail at or below `root`.  The caller holds the mailbox.

    `rate`: limit in bytes per second; 0: no limit.  `elsewhere`: where Dovecot keeps its files.
    """
    report = Report()
    going = steps(root, form, jobs=jobs, shred=shred, rate=rate, elsewhere=elsewhere)
    for report in going:  # noqa: B007
        pass
    return report


def steps(
    root: str,
    form: Form,
    *,
    jobs: int = 1,
    shred: bool = False,
    rate: int = 0,
    polite: bool = False,
    elsewhere: Elsewhere = NOWHERE,
) -> Iterator[Report]:
    """As run(), but yields the report after each group.  `polite`: see pace.py."""
    report = Report()
    begun = time.monotonic()
    paths: set[str] = set()
    for found in walk(root):
        if isinstance(found, Folder):
            paths.add(found.path)
            report.swept += sweep(found.path)
            with contextlib.suppress(TemporaryError):
                report.total += sum(1 for _ in found.mails())
    yield report
    give_up, passes = 0.0, 0
    with _Processes(form, jobs, shred, Pace(rate / jobs, polite), report) as processes:
        while True:
            pending = any(_is_under_way(path, form) for path in sorted(paths))
            converted, before = report.tally.converted, report.tally.converted + processes.lost
            report.tally.already = report.tally.left = 0
            report.tally.problems.clear()
            for found in walk(root):
                if report.stopped:
                    break
                if isinstance(found, Skipped):
                    if not os.path.lexists(found.path):
                        processes.lost += 1
                    elif not give_up:
                        report.skipped.append(found)
                    continue
                if found.path not in paths:
                    paths.add(found.path)
                    sweep(found.path)
                try:
                    locks = elsewhere.locks(found, root)
                    for group in _groups(found, locks, _POLITE_GROUP if polite else GROUP_MAILS):
                        processes.do(group)
                        yield report
                except TemporaryError as exc:
                    if is_gone(found.path):
                        processes.lost += 1
                    elif not give_up:
                        report.skipped.append(Skipped(found.path, str(exc)))
            processes.finish()
            # The last pass has checked every mail, and had nothing to convert.
            quiet = not pending and report.tally.converted + processes.lost == before
            if quiet and give_up:
                report.tally.already = max(0, report.tally.already - report.tally.converted)
            if quiet or report.stopped or not os.path.isdir(root):
                break
            give_up = give_up or time.monotonic() + _PATIENCE
            passes += 1
            doubt = 0.0 if report.tally.converted > converted else _DOUBT - _PATIENCE
            if time.monotonic() > give_up + doubt and passes > _PASSES:
                report.stopped = "more mail comes in all the time: end the user's sessions"
                break
            time.sleep(min(_PAUSE * passes, 1.0))
    for path in paths:  # a folder that was renamed may have left-overs of this run
        with contextlib.suppress(MailsealError):
            sweep(path)
    if not os.path.isdir(root):
        # It was removed, or its file system is not mounted any more.
        report.stopped = f"{root} does not exist any more"
    report.folders = len(paths)
    report.seconds = time.monotonic() - begun
    yield report


def _is_under_way(maildir: str, form: Form) -> bool:
    """Whether tmp/ contains a mail that does not have the wanted form and will be moved soon."""
    for start in arriving(maildir, time.time() - _PATIENCE):
        with contextlib.suppress(MailsealError):
            if not start or form.work(start) is not None:
                return True
    return False


def survey(root: str, form: Form) -> Report:
    """What run() would do.  Reads only the beginning of each mail, and writes nothing."""
    report = Report()
    begun = time.monotonic()
    for found in walk(root):
        if isinstance(found, Skipped):
            report.skipped.append(found)
            continue
        report.folders += 1
        try:
            for part, name in found.mails():
                examine(found.path, part, name, form, report.tally)
        except TemporaryError as exc:
            report.skipped.append(Skipped(found.path, str(exc)))
    report.total = report.tally.seen
    report.seconds = time.monotonic() - begun
    return report


class _Group(NamedTuple):
    """Mails of one folder."""

    maildir: str
    locks: Locks
    names: list[tuple[str, str]]


def _groups(folder: Folder, locks: Locks, size: int) -> Iterator[_Group]:
    mails = folder.mails()
    while names := list(itertools.islice(mails, size)):
        yield _Group(folder.path, locks, names)


_Result = tuple[Tally, str]
"""Tally of a group, and the reason if the run must stop."""


class _Processes:
    """Converts groups of mails in several processes, or in this one if `jobs` is 1."""

    def __init__(self, form: Form, jobs: int, shred: bool, pace: Pace, report: Report) -> None:
        self._form, self._shred = form, shred
        self._pace = pace
        self._report = report
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None
        self._running: dict[Future[_Result], _Group] = {}
        self._looked_at: set[int] = set()
        self.lost = 0
        """Mails and folders that vanished before anybody had looked at them; the next pass may find
        them."""
        if jobs > 1:
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(
                jobs, context, initializer=_start, initargs=(os.getpid(), form)
            )

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def do(self, group: _Group) -> None:
        """Start a group as soon as a process is free."""
        if self._report.stopped:
            return
        if self._pool is None:
            self._note(group, _do(group, self._form, self._shred, self._pace))
            return
        future = self._pool.submit(_in_process, group, self._shred, self._pace)
        self._running[future] = group
        if len(self._running) >= 2 * self._jobs:
            self._collect(wait(self._running, return_when=FIRST_COMPLETED).done)

    def finish(self) -> None:
        """Wait for all groups."""
        self._collect(wait(self._running).done)

    def _collect(self, done: Iterable[Future[_Result]]) -> None:
        for future in done:
            group = self._running.pop(future)
            try:
                self._note(group, future.result())
            except BrokenProcessPool:
                self._report.stopped = "a process was killed"

    def _note(self, group: _Group, result: _Result) -> None:
        tally, stopped = result
        names = {hash((group.maildir, base_of(name))) for _, name in group.names}
        gone = {hash((group.maildir, base_of(name))) for name in tally.gone}
        self.lost += len(gone - self._looked_at)
        self._looked_at |= names - gone
        self._report.gone += len(tally.gone)
        tally.gone.clear()
        self._report.tally.add(tally)
        self._report.stopped = self._report.stopped or stopped


_form: Form | None = None
"""The form of this run, in the forked processes."""


def _start(parent: int, form: Form) -> None:
    global _form
    _form = form
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _in_process(group: _Group, shred: bool, pace: Pace) -> _Result:
    if _form is None:
        raise RuntimeError("a process without a form")
    return _do(group, _form, shred, pace)


def _do(group: _Group, form: Form, shred: bool, pace: Pace) -> _Result:
    """Convert one group."""
    tally, stopped = Tally(), ""
    with pace.piece() as piece:
        try:
            convert(group.maildir, group.names, form, tally, shred=shred, locks=group.locks)
        except NotConvertible:
            raise
        except MailsealError as exc:
            if is_gone(group.maildir):
                tally.gone = [name for _, name in group.names]
            else:
                stopped = f"{exc}{f' ({exc.hint})' if exc.hint else ''}"
        piece.size = tally.converted_bytes
    return tally, stopped
