# SPDX-License-Identifier: MIT
"""Seals and stores mails in groups: mails that are ready at the same time are synced together.

A few threads share the waiting jobs.  Each thread takes some of them, seals and
writes the mails, syncs and renames each file, and syncs each folder once
(maildir.store).  While they wait for the disk, the event loop of the worker
continues to read; mails that arrive meanwhile are the next group.

Several threads are faster, because the journal of the file system completes waiting
syncs together: with 16 sessions, 4 KB mails and a busy disk, 229 mails/s
with one thread in each worker and 385 with two.  But with more threads, switches of
Python's global lock cost more: on an idle disk 824 mails/s with three, 686 with eight.

CONTRACT
    Each submitted job gets exactly one outcome; for an unexpected error it is 451.
    2xx is used only for mails that are on disk.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable, Sequence

from mailseal.config import Config
from mailseal.crypto.eckeys import CURVES
from mailseal.delivery import outcome
from mailseal.delivery.folders import Folders
from mailseal.delivery.lmtp.syntax import Reply
from mailseal.delivery.message import Envelope, Message
from mailseal.delivery.outcome import Outcome
from mailseal.delivery.route import Route, Router
from mailseal.delivery.seal import SecretPool, seal_into
from mailseal.errors import TemporaryError
from mailseal.mailbox import maildir
from mailseal.mailbox.maildir import Staged

GROUP = 64
"""Largest number of mails in a group.  It limits how long the first one waits for the last."""


@dataclasses.dataclass(slots=True)
class SealJob:
    """One recipient's copy to be sealed and stored."""

    route: Route
    envelope: Envelope
    message: Message
    done: Callable[[Outcome], None] | None = None
    """Called in the writer thread, with the outcome."""
    result: Outcome | None = None

    @property
    def outcome(self) -> Outcome:
        """The result, or an internal fault if there is none."""
        return self.result or outcome.of(RuntimeError(), self.route.address)


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """The objects needed to store mail: keys, folders, sizes in names, secrets made in advance."""

    router: Router
    folders: Folders
    sizes: str
    secrets: SecretPool


def make_store(config: Config, router: Router, secrets_ahead: int) -> Store:
    """The Store for this configuration.  `secrets_ahead`: number of secrets made in advance."""
    folders = Folders(config.delivery.header_rules, config.delivery.detail_folder)
    secrets = SecretPool(secrets_ahead, CURVES[config.keys.curve])
    return Store(router, folders, config.delivery.sizes, secrets)


def seal_group(jobs: Sequence[SealJob], store: Store) -> None:
    """Store the mails of all `jobs` and set their results.  Never raises."""
    staged: list[tuple[SealJob, Staged, bytes]] = []
    for job in jobs:
        try:
            # Look up the key again: it may have been replaced since RCPT.
            route = job.route
            key = store.router.key_of(route.user)
            if key is None:
                raise TemporaryError(f"{route.user} is no longer enrolled")
            folder = store.folders.choose(
                route.maildir, route.account.layout, route.detail, job.message
            )
            one = seal_into(
                folder,
                key,
                job.envelope,
                route.address,
                job.message,
                sizes=store.sizes,
                secret=store.secrets.take(),
            )
            staged.append((job, one, key.key_id))
        except Exception as exc:
            job.result = outcome.of(exc, job.route.address)
    try:
        errors = maildir.store([one for _, one, _ in staged])
    except Exception as exc:
        for job, one, _ in staged:
            maildir.discard(one)
            job.result = outcome.of(exc, job.route.address)
        return
    for (job, _, key_id), failure in zip(staged, errors, strict=True):
        if failure is not None:
            job.result = outcome.of(failure, job.route.address)
            continue
        text = f"<{job.route.address}> {job.envelope.session} Sealed"
        job.result = Outcome(Reply(250, "2.0.0", text), "sealed", key_id)


class Writers:
    """The writer threads of a worker."""

    def __init__(self, store: Store, threads: int) -> None:
        self._store = store
        self._idle = 0
        self._waiting: collections.deque[SealJob] = collections.deque()
        self._wake = threading.Condition()
        for _ in range(threads):
            threading.Thread(target=self._run, name="writer", daemon=True).start()

    def submit(self, job: SealJob) -> None:
        """Queue a job; its `done` will be called."""
        with self._wake:
            self._waiting.append(job)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._idle += 1
                while not self._waiting:
                    self._wake.wait()
                # Waiting jobs are shared with the other idle threads.
                count = min(GROUP, -(-len(self._waiting) // self._idle))
                self._idle -= 1
                group = [self._waiting.popleft() for _ in range(count)]
            seal_group(group, self._store)
            for job in group:
                if job.done is not None:
                    job.done(job.outcome)
            del group, job  # otherwise the mails would stay in memory until the next group
