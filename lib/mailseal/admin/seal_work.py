# SPDX-License-Identifier: MIT
"""mailseal-sealer seals one user's mail, in a process of its own, and records the progress.

FAILURES
    None: a failure is recorded, and the service tries again later.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from mailseal.admin.conversion import Conversion, Entry, merge
from mailseal.admin.mail_place import Place
from mailseal.admin.own_pairs import ids_of
from mailseal.admin.seal_jobs import DONE, SEALING, WAITING, Job, Jobs
from mailseal.config import Config
from mailseal.errors import MailsealError, NotEnrolled
from mailseal.keys.public import PublicStore
from mailseal.logs import INFO, WARNING, Log
from mailseal.mailbox.forms import Seal

RETRY = 300
"""Seconds before another attempt after a failure."""

_TELL = 5.0
"""Seconds between two records of the progress."""
_NAMED = 20


class SealWork:
    """Seals mail according to the options."""

    def __init__(self, config: Config, jobs: Jobs, log: Log) -> None:
        self._config = config
        self._options = config.seal
        self._public = PublicStore(config.public_dir)
        self._jobs = jobs
        self._log = log

    def run(self, job: Job, place: Place) -> None:
        """Seal one user's mail."""
        own = ids_of(self._config, job.user)
        try:
            entry = self._sealed(job, place, own or ())
        except MailsealError as exc:
            self.put_off(job, str(exc))
            return
        if entry.get("stopped"):
            self.put_off(job, entry["stopped"])
            return
        if entry.get("left") and own is None:
            self.put_off(job, "the key agent does not say which older key pairs the user has")
            return
        left = entry.get("left", 0) + len(entry.get("skipped", ()))
        done = sum(entry.get(name, 0) for name in ("converted", "already", "left"))
        job = dataclasses.replace(
            job,
            phase=DONE,
            done=done,
            total=done,
            left=left,
            problem="",
            again=0,
            at=int(time.time()),
        )
        self._save(job)
        self._log.write(
            WARNING if left else INFO,
            f"user=<{job.user}>, sealed={entry.get('converted', 0)}, left={left}, done",
        )
        for path, why in [*entry.get("problems", ()), *entry.get("skipped", ())][:_NAMED]:
            self._log.write(WARNING, f"user=<{job.user}>, not sealed: {path}: {why}")
        for path, what in entry.get("clear_text", ()):
            self._log.write(WARNING, f"user=<{job.user}>, text in clear: {path}: {what}")

    def put_off(self, job: Job, why: str) -> None:
        """Record a failure; the service tries again later."""
        self._log.write(WARNING, f"user=<{job.user}>, postponed: {why}")
        again = int(time.time()) + RETRY
        self._save(dataclasses.replace(job, phase=WAITING, problem=why, again=again))

    def _sealed(self, job: Job, place: Place, own: Sequence[bytes]) -> Entry:
        key = self._public.lookup(job.user)
        if key is None:
            raise NotEnrolled(f"{job.user} is not enrolled any more")
        work = Conversion(
            "sealing",
            jobs=self._options.processes,
            rate=self._options.limit_rate or 0,
            polite=True,
        )
        entry: dict[str, Any] = {}
        begun = told = time.monotonic()
        self._save(dataclasses.replace(job, phase=SEALING, problem="", again=0))
        for message in work.messages(job.user, place, Seal(key, own)):
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

    def _save(self, job: Job) -> None:
        try:
            self._jobs.save(job)
        except MailsealError as exc:
            self._log.write(WARNING, f"user=<{job.user}>, cannot record the progress: {exc}")
