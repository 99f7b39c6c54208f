# SPDX-License-Identifier: MIT
"""mailseal-sealer: seals the existing mail of enrolled users.

SYNOPSIS
    mailseal-sealer [-c CONFIG]

DESCRIPTION
    Runs in the foreground, as root.  Only processes that have become the owner of the mail
    open a mailbox.  With `seal.existing: at-enrollment` it lists the enrolled users every few
    seconds, and seals the mail of each user once, one user after the other.  Its progress is
    stored, and `mailseal status` shows it.  After a failure it tries again later.
    It needs public keys only, and not the agent.

    SIGTERM, SIGINT  stop at once: each mail is complete, and the next start continues
    NOTIFY_SOCKET    gets READY=1 and STOPPING=1 (Type=notify)

DIAGNOSTICS
    Exit status 78 for a wrong configuration, 75 for other failures at start.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from mailseal import config as configuration
from mailseal.admin.conversion import Conversion, Entry, merge
from mailseal.admin.mail_place import Places
from mailseal.admin.seal_jobs import DONE, SEALING, WAITING, Job, Jobs
from mailseal.config import Config
from mailseal.daemon import notify, open_log
from mailseal.errors import (
    EX_CONFIG,
    EX_OK,
    EX_TEMPFAIL,
    ConfigError,
    MailsealError,
    NotEnrolled,
    print_error,
)
from mailseal.keys.names import file_name
from mailseal.keys.public import PublicStore
from mailseal.logs import INFO, WARNING
from mailseal.mailbox.forms import Seal

_LOOK = 5.0
_TELL = 5.0
_RETRY = 300
"""Seconds between two lists of enrolled users, between two records of the progress, and before
another attempt after a failure."""


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
                if self._config.seal.existing == "at-enrollment":
                    self._look()
                time.sleep(_LOOK)
        except Stop:
            notify(self._notify, "STOPPING=1")
            self._log.write(INFO, "stopping")
        return EX_OK

    def _look(self) -> None:
        """Seal the mail of all users for whom this was not done yet."""
        try:
            users = self._public.users()
        except MailsealError as exc:
            self._log.write(WARNING, f"cannot list the enrolled users: {exc}")
            return
        for user in users:
            job = self._due(user)
            if job is not None:
                self._seal(job)

    def _due(self, user: str) -> Job | None:
        try:
            mark = os.stat(os.path.join(self._public.folder, "enrolled", file_name(user)))
        except OSError:
            return None
        job = self._jobs.load(user)
        if job is None or job.enrollment != mark.st_mtime_ns:
            return Job(user, enrollment=mark.st_mtime_ns)
        # If the clock was set back, do not wait longer because of it.
        if job.phase == DONE or 0 < job.again - time.time() <= _RETRY:
            return None
        return job

    def _seal(self, job: Job) -> None:
        try:
            entry = self._sealed(job)
        except MailsealError as exc:
            self._put_off(job, str(exc))
            return
        if entry.get("stopped"):
            self._put_off(job, entry["stopped"])
            return
        left = entry.get("left", 0) + len(entry.get("skipped", ()))
        done = sum(entry.get(name, 0) for name in ("converted", "already", "left"))
        job = dataclasses.replace(
            job, phase=DONE, done=done, total=done, left=left, problem="", again=0
        )
        self._save(job)
        self._log.write(
            WARNING if left else INFO,
            f"user=<{job.user}>, sealed={entry.get('converted', 0)}, left={left}, done",
        )
        for path, why in [*entry.get("problems", ()), *entry.get("skipped", ())][:20]:
            self._log.write(WARNING, f"user=<{job.user}>, not sealed: {path}: {why}")
        for path, what in entry.get("clear_text", ()):
            self._log.write(WARNING, f"user=<{job.user}>, text in clear: {path}: {what}")

    def _sealed(self, job: Job) -> Entry:
        key = self._public.lookup(job.user)
        if key is None:
            raise NotEnrolled(f"{job.user} is not enrolled any more")
        options = self._config.seal
        work = Conversion("sealing", jobs=options.processes, rate=options.limit_rate or 0)
        entry: dict[str, Any] = {}
        begun = told = time.monotonic()
        self._save(dataclasses.replace(job, phase=SEALING, problem="", again=0))
        place = Places(self._config).of(job.user)
        for message in work.messages(job.user, place, Seal(key)):
            if "done" not in message:
                merge(entry, message)
            elif time.monotonic() - told >= _TELL:
                told = time.monotonic()
                done = message["done"]
                rate = round(done / (told - begun), 1)
                self._save(
                    dataclasses.replace(
                        job, phase=SEALING, done=done, total=max(done, message["total"]), rate=rate
                    )
                )
        return entry

    def _put_off(self, job: Job, why: str) -> None:
        self._log.write(WARNING, f"user=<{job.user}>, postponed: {why}")
        again = int(time.time()) + _RETRY
        self._save(dataclasses.replace(job, phase=WAITING, problem=why, again=again))

    def _save(self, job: Job) -> None:
        try:
            self._jobs.save(job)
        except MailsealError as exc:
            self._log.write(WARNING, f"user=<{job.user}>, cannot record the progress: {exc}")


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
