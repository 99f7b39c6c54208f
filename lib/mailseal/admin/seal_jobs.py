# SPDX-License-Identifier: MIT
"""The state of mailseal-sealer's work: one small file for each user (user_files.py).

The service seals the mail of each enrolled user, or of those who want it, whose file does not say
"done" for this enrollment and this wish.  So nothing is lost while it is not running.

FAILURES
    A file that cannot be read counts as missing: the mail is checked again, which changes nothing.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from mailseal.admin.user_files import UserFiles

WAITING, SEALING, DONE = "waiting", "sealing", "done"
UNSEALING, OFF = "unsealing", "off"
"""The user leaves, or has left."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One user's existing mail."""

    user: str
    phase: str = WAITING
    done: int = 0
    total: int = 0
    """Mails checked so far, and their total number."""
    left: int = 0
    """Mails that cannot be sealed; `mailseal verify` lists them."""
    rate: float = 0.0
    """Mails per second."""
    problem: str = ""
    """Why it waits."""
    again: int = 0
    """When to try again; seconds since 1970."""
    enrollment: int = 0
    """Identifies the enrollment: time of the mark in the public key store."""
    wish: int = 0
    """Identifies the user's wish: when it was recorded; 0 if there is none."""
    at: int = 0
    """When the work was completed; seconds since 1970."""

    @property
    def seconds_left(self) -> int | None:
        """Estimated time; None if it is not known."""
        if self.phase not in (SEALING, UNSEALING) or not self.rate:
            return None
        return round(max(self.total - self.done, 0) / self.rate)

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        names = ("phase", "done", "total", "left", "rate", "problem", "at")
        return {name: getattr(self, name) for name in names} | {"seconds_left": self.seconds_left}


class Jobs(UserFiles[Job]):
    """The files of all users."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, Job)


def described(job: dict[str, Any]) -> str:
    """A short text for people, from Job.as_json()."""
    if job["phase"] == DONE:
        left = f", {job['left']} mails could not be sealed" if job["left"] else ""
        on = time.strftime(" on %Y-%m-%d", time.gmtime(job["at"])) if job["at"] else ""
        return f"sealed{on}{left}"
    if job["phase"] == OFF:
        return "stored in clear, the user has left"
    text = "waits to be sealed"
    if job["phase"] in (SEALING, UNSEALING):
        doing = "sealed" if job["phase"] == SEALING else "stored in clear, the user leaves"
        text = f"is being {doing}, {job['done']} of {job['total']} mails"
        if job["seconds_left"] is not None:
            text += f", {job['rate']:.0f} per second, {-(-job['seconds_left'] // 60)} minutes left"
    return f"{text} ({job['problem']})" if job["problem"] else text
