# SPDX-License-Identifier: MIT
"""What a look at stored mail has found, and what it counted."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter

from mailseal.errors import Damaged, MailsealError
from mailseal.mailbox import uidlist
from mailseal.mailbox.examine import CHANGED, CLEAR, DAMAGED, FOREIGN, ODD, SIZE
from mailseal.mailbox.folders import Folder

TEXT = "text"
"""Dovecot has written pieces of mails in clear."""
TWICE = "twice"
"""The same sealed mail lies there twice, and not as hard links, which is what COPY makes."""
UNREADABLE = "unreadable"
"""Could not be looked at."""

KINDS = (CHANGED, DAMAGED, SIZE, TWICE, FOREIGN, CLEAR, TEXT, ODD, UNREADABLE)
"""The worst first."""

_INBOX = (".INBOX", "INBOX")

MOST_NAMED = 1000
"""So many findings of one kind are named in one report; all are counted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not right.  `uid` is None where there is none, or none yet."""

    kind: str
    folder: str
    path: str
    text: str
    uid: int | None = None


@dataclasses.dataclass(slots=True)
class Report:
    """What was seen since the last report."""

    mails: int = 0
    size: int = 0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    """All findings by kind, named or not."""
    findings: list[Finding] = dataclasses.field(default_factory=list)
    marks: list[bytes] = dataclasses.field(default_factory=list)
    """Of the sealed mails: examine.MARK_SIZE bytes each."""

    def add(self, finding: Finding) -> None:
        """Count a finding, and name it if there are not too many of the kind."""
        self.counts[finding.kind] += 1
        if self.counts[finding.kind] <= MOST_NAMED:
            self.findings.append(finding)

    def give_uids(self, folder: Folder, uid_list: str) -> None:
        """Add the UIDs to the findings in a folder: one reading, and only if there are any."""
        if not self.findings:
            return
        bases = {uidlist.base_of(os.path.basename(finding.path)) for finding in self.findings}
        try:
            uids = uidlist.uids(uid_list, bases)
        except FileNotFoundError:
            return  # Dovecot has not been here yet
        except MailsealError as exc:
            kind = DAMAGED if isinstance(exc, Damaged) else UNREADABLE
            self.add(Finding(kind, folder.name, uid_list, str(exc)))
            return
        self.findings = [
            dataclasses.replace(
                finding, uid=uids.get(uidlist.base_of(os.path.basename(finding.path)))
            )
            for finding in self.findings
        ]


def uid_list_of(folder: Folder, root: str, control: str = "") -> str:
    """The list of UIDs of a folder.  `control`: where Dovecot keeps them, if not in `root`."""
    relative = folder.path[len(root) :]
    if control and not relative:
        # Apart from the Maildir INBOX has a folder like the others.
        relative = next((f"/{n}" for n in _INBOX if os.path.isdir(f"{control}/{n}")), "")
    return f"{control or root}{relative}/{uidlist.NAME}"
