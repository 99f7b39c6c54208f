# SPDX-License-Identifier: MIT
"""The results of verify.at_login: one small file for each user (user_files.py)."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from mailseal.admin.user_files import UserFiles


@dataclasses.dataclass(frozen=True)
class Check:
    """The last check of one user's mail."""

    user: str
    when: int = 0
    """Seconds since 1970."""
    mails: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    """Findings by kind, as in `mailseal verify`."""

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {"when": self.when, "mails": self.mails, "counts": self.counts}


class Checks(UserFiles[Check]):
    """The files of all users."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, Check)


def described(check: dict[str, Any]) -> str:
    """A short text for people, from Check.as_json()."""
    day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(check["when"]))
    found = ", ".join(f"{number} {kind}" for kind, number in check["counts"].items())
    return f"{check['mails']} mails checked with the keys on {day} UTC: {found or 'no problems'}"
