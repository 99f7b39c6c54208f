# SPDX-License-Identifier: MIT
"""mailseal-sealer: seals the existing mail of enrolled users, and does what users have asked
the key agent for.

SYNOPSIS
    mailseal-sealer [-c CONFIG]

DESCRIPTION
    Runs in the foreground, as root.  Only processes that have become the owner of the mail
    open a mailbox.  With `seal.existing: at-enrollment` it lists the enrolled users every few
    seconds, and seals the mail of each user once: of `seal.parallel` users at a time on each
    file system.  Without this option, it seals the mail of users who asked for it.  The progress
    is stored, and `mailseal status` shows it.  After a failure it tries again later.
    For this it needs public keys only.  It asks the agent which older key pairs a user has: mail
    that is sealed with these is not listed.
    If there are agent.panel_users, it also asks the agent which users leave, and whose sessions
    end: see sealer_chores.py.
    With `verify.at_login` it also checks the mail of users who log in: login_checks.py.

    SIGTERM, SIGINT  stop at once: each mail is complete, and the next start continues
    NOTIFY_SOCKET    gets READY=1 and STOPPING=1 (Type=notify)

DIAGNOSTICS
    Exit status 78 for a wrong configuration, 75 for other failures at start.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from mailseal import config as configuration
from mailseal.admin import sealer_counts
from mailseal.admin.children import Children, disk_of, wait
from mailseal.admin.login_checks import LoginChecks
from mailseal.admin.mail_place import Place, Places
from mailseal.admin.seal_jobs import DONE, UNSEALING, Job, Jobs
from mailseal.admin.seal_work import RETRY, SealWork
from mailseal.admin.sealer_chores import Chores
from mailseal.config import Config
from mailseal.daemon import notify, open_log
from mailseal.errors import (
    EX_CONFIG,
    EX_OK,
    EX_TEMPFAIL,
    ConfigError,
    MailsealError,
    print_error,
)
from mailseal.keys.names import file_name
from mailseal.keys.public import PublicStore
from mailseal.login.notes import Notes
from mailseal.logs import INFO, WARNING

_LOOK = 5.0
"""Seconds between two lists of enrolled users."""

_NO_DISK = -1
"""Stands for the file system of users who leave: it is not known yet."""

_MOST_WAITING = 100
"""Number of users that wait for their file system; the others are looked up later."""


class Stop(BaseException):
    """SIGTERM or SIGINT has arrived."""


class Sealer:
    """The service."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self._config = config
        self._notify = environ.get("NOTIFY_SOCKET")
        self._public = PublicStore(config.public_dir)
        self._jobs = Jobs(config.sealer_dir)
        self._jobs.prepare()
        self._log = open_log(config, "mailseal-sealer", None)
        self._work = SealWork(config, self._jobs, self._log)
        self._children = Children(config.seal.parallel)
        self._checks: LoginChecks | None = None
        if config.verify.at_login is not None:
            self._checks = LoginChecks(config, self._log, self._children.has)
        self._users: Iterator[str] = iter(())
        self._looked = -_LOOK
        self._waiting: dict[str, tuple[Job, Place]] = {}
        self._done: dict[str, tuple[int, int]] = {}
        """By user: the enrollment and the wish after which all mail was sealed."""
        self._notes = Notes(config.notes_dir)
        self._chores = Chores(config, self._jobs, self._log.write)
        self._leaving: list[str] = []
        self._counts = sealer_counts.make(config, self._public.users, self._known)

    def run(self) -> int:
        """Run until it is told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        with contextlib.suppress(OSError):
            os.nice(19)
        try:
            self._log.write(INFO, f"started, seal.existing: {self._config.seal.existing}")
            notify(self._notify, "READY=1")
            while True:
                self._leave()
                self._look()
                self._begin()
                if self._checks is not None:
                    self._checks.look()
                if self._counts is not None:
                    self._counts.go_on()
                wait(_LOOK)
                for user, status in self._children.reap():
                    # If a user leaves, the agent has the request: it is repeated.
                    if status and user not in self._leaving:
                        self._work.put_off(self._job(user), "its process ended unexpectedly")
        except Stop:
            notify(self._notify, "STOPPING=1")
            self._log.write(INFO, "stopping")
            self._children.stop()
            if self._checks is not None:
                self._checks.stop()
        return EX_OK

    def _leave(self) -> None:
        """End sessions, and start a process for each user who leaves."""
        self._leaving = self._chores.kick()
        self._chores.end_stranded(self._leaving, self._children.has)
        for user in self._leaving:
            self._waiting.pop(user, None)
            if self._children.has(user) or not self._children.has_room(_NO_DISK):
                continue
            if self._chores.is_due(user):
                try:
                    self._chores.watch(user)
                    work = functools.partial(self._chores.leave, user)
                    self._children.start(user, _NO_DISK, work)
                except OSError as exc:
                    self._log.write(WARNING, f"user=<{user}>, cannot start a process: {exc}")

    def _look(self) -> None:
        """Find users whose mail must be sealed, as many as may wait."""
        now = time.monotonic()
        places: Places | None = None
        while len(self._waiting) < _MOST_WAITING:
            user = next(self._users, None)
            if user is None:
                if now - self._looked < _LOOK:
                    return
                self._looked = now
                try:
                    self._users = iter(self._public.users())
                except MailsealError as exc:
                    self._log.write(WARNING, f"cannot list the enrolled users: {exc}")
                    return
                continue
            if user in self._waiting or user in self._leaving or self._children.has(user):
                continue
            if (job := self._due(user)) is None:
                continue
            try:
                places = places or Places(self._config)
                self._waiting[user] = job, places.of(user)
            except MailsealError as exc:
                self._work.put_off(job, str(exc))

    def _begin(self) -> None:
        """Start a process for each user whose file system has room for one."""
        for user, (job, place) in list(self._waiting.items()):
            disk = disk_of(place.maildir)
            if not self._children.has_room(disk):
                continue
            del self._waiting[user]
            try:
                self._children.start(user, disk, functools.partial(self._work.run, job, place))
            except OSError as exc:
                self._work.put_off(job, f"cannot start a process: {exc.strerror}")

    def _due(self, user: str) -> Job | None:
        try:
            mark = os.stat(os.path.join(self._public.folder, "enrolled", file_name(user)))
        except OSError:
            return None
        wish = self._notes.wants_old_mail(user)
        if not wish and self._config.seal.existing != "at-enrollment":
            return None
        which = (mark.st_mtime_ns, wish)
        if self._done.get(user) == which:
            return None
        job = self._job(user)
        if (job.enrollment, job.wish) != which:
            return Job(user, enrollment=mark.st_mtime_ns, wish=wish)
        if job.phase == DONE:
            self._done[user] = which
            return None
        if job.phase == UNSEALING:  # interrupted: the user decides
            return None
        # If the clock was set back, do not wait longer because of it.
        return None if 0 < job.again - time.time() <= RETRY else job

    def _known(self, user: str) -> Job | None:
        """The record of a user's work, or a new one if there is work to do."""
        return self._jobs.load(user) or self._due(user)

    def _job(self, user: str) -> Job:
        return self._jobs.load(user) or Job(user)


def _stop(*_: object) -> NoReturn:
    raise Stop


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the service; returns the exit status."""
    parser = argparse.ArgumentParser("mailseal-sealer", description="seals existing mail")
    parser.add_argument("-c", "--config", default=configuration.DEFAULT_PATH, metavar="FILE")
    options = parser.parse_args(argv)
    os.umask(0o077)
    try:
        return Sealer(configuration.load(options.config), environ).run()
    except MailsealError as error:
        print_error("mailseal-sealer", error)
        return EX_CONFIG if isinstance(error, ConfigError) else EX_TEMPFAIL
