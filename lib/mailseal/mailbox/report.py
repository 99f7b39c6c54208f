# SPDX-License-Identifier: MIT
"""What `mailseal verify` has found and counted."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter

from mailseal.errors import Damaged, MailsealError
from mailseal.mailbox import uidlist
from mailseal.mailbox.examine import CHANGED, CLEAR, DAMAGED, FOREIGN, ODD, SIZE
from mailseal.mailbox.folders import Folder

TEXT = "text"
"""Dovecot has stored parts of mails in clear."""
TWICE = "twice"
"""The same sealed mail is stored in two files, not as two hard links (made by COPY)."""
UNREADABLE = "unreadable"
"""Could not be checked."""

KINDS = (CHANGED, DAMAGED, SIZE, TWICE, FOREIGN, CLEAR, TEXT, ODD, UNREADABLE)
"""In order of severity."""

_INBOX = (".INBOX", "INBOX")

MOST_NAMED = 1000
"""Largest number of findings of one kind that a report lists; all are counted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One problem.  `uid` is None if there is no UID, or none yet."""

    kind: str
    folder: str
    path: str
    text: str
    uid: int | None = None


@dataclasses.dataclass(slots=True)
class Report:
    """What was found since the last report."""

    mails: int = 0
    size: int = 0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of findings of each kind, listed or not."""
    findings: list[Finding] = dataclasses.field(default_factory=list)
    marks: list[bytes] = dataclasses.field(default_factory=list)
    """The marks of the sealed mails, examine.MARK_SIZE bytes each."""

    def add(self, finding: Finding) -> None:
        """Count a finding, and list it if there are not too many of its kind."""
        self.counts[finding.kind] += 1
        if self.counts[finding.kind] <= MOST_NAMED:
            self.findings.append(finding)

    def give_uids(self, folder: Folder, uid_list: str) -> None:
        """Add the UIDs to the findings in a folder.  Reads the list once, if needed."""
        if not self.findings:
            return
        bases = {uidlist.base_of(os.path.basename(finding.path)) for finding in self.findings}
        try:
            uids = uidlist.uids(uid_list, bases)
        except FileNotFoundError:
            return  # Dovecot has not opened this folder yet
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
    """Path of the list of UIDs of a folder.  `control`: where the lists are, if not in `root`."""
    return beside(folder, root, control, uidlist.NAME)


def beside(folder: Folder, root: str, other: str, name: str) -> str:
    """Path of a file of Dovecot that belongs to a folder.  `other`: where, if not in `root`."""
    relative = folder.path[len(root) :]
    if other and other != root and not relative:
        # In a folder apart from the Maildir, INBOX has a subfolder like all others.
        relative = next((f"/{n}" for n in _INBOX if os.path.isdir(f"{other}/{n}")), "")
    return f"{other or root}{relative}/{name}"
