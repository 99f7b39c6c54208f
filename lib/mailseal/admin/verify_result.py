# SPDX-License-Identifier: MIT
"""The result of `mailseal verify` for one user, for people and for programs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mailseal.admin.crew import Message
from mailseal.mailbox.examine import CHANGED, MARK_SIZE
from mailseal.mailbox.report import KINDS, MOST_NAMED, UNREADABLE, Finding, Report

_WORDS = {
    "changed": "CHANGED",
    "damaged": "damaged",
    "size": "with a wrong size in the name",
    "twice": "stored twice",
    "foreign": "sealed to another key",
    "clear": "in clear",
    "text": "with text of mails in clear",
    "odd": "not a mail",
    "unreadable": "not checked",
}


def message_of(report: Report) -> Message:
    """A report as a message to another process."""
    return {
        "mails": report.mails,
        "size": report.size,
        "counts": report.counts,
        "findings": [[getattr(f, name) for name in Finding.__slots__] for f in report.findings],
        "marks": b"".join(mark.ljust(MARK_SIZE, b"\0") for mark in report.marks).hex(),
    }


def marks_of(message: Message) -> list[bytes]:
    """The marks in a message."""
    data = bytes.fromhex(message["marks"])
    return [data[start : start + MARK_SIZE] for start in range(0, len(data), MARK_SIZE)]


class Result:
    """The findings for one user."""

    def __init__(self, user: str, *, tags: bool) -> None:
        self.user = user
        self.tags = tags
        self.mails = 0
        self.sealed = 0
        self.size = 0
        self.counts: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self._named: Counter[str] = Counter()

    def take(self, message: Message) -> None:
        """Add the message of a process."""
        self.mails += message["mails"]
        self.sealed += len(message["marks"]) // (2 * MARK_SIZE)
        self.size += message["size"]
        self.counts.update(message["counts"])
        for fields in message["findings"]:
            finding = Finding(*fields)
            self._named[finding.kind] += 1
            if self._named[finding.kind] <= MOST_NAMED:
                self.findings.append(finding)

    def cannot(self, text: str) -> None:
        """The user's mail could not be checked at all."""
        self.counts[UNREADABLE] += 1
        self.findings.append(Finding(UNREADABLE, "", "", text))

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        names = Finding.__slots__
        return {
            "user": self.user,
            "mails": self.mails,
            "sealed": self.sealed,
            "bytes": self.size,
            "tags_checked": self.tags,
            "counts": dict(self.counts),
            "findings": [{n: _text(getattr(f, n)) for n in names} for f in self._sorted()],
        }

    def as_text(self) -> str:
        """For people: one line for each finding, and one for the user."""
        lines = [f"{self.user}: {_in_words(finding)}" for finding in self._sorted()]
        more = self.counts.total() - len(self.findings)
        if more:
            lines.append(f"{self.user}: and {more:,} more that are not listed")
        found = ", ".join(f"{self.counts[k]:,} {_WORDS[k]}" for k in KINDS if self.counts[k])
        how = "with all tags" if self.tags else "without the tags"
        lines.append(
            f"{self.user}: {self.mails:,} mails, {self.sealed:,} of them sealed, "
            f"checked {how}: {found or 'no problems found'}"
        )
        return "".join(f"{printable(line)}\n" for line in lines)

    def _sorted(self) -> list[Finding]:
        return sorted(self.findings, key=lambda f: (KINDS.index(f.kind), f.folder, f.uid or 0))


def _text(value: object) -> object:
    """File names may contain any bytes; JSON needs text."""
    return printable(value) if isinstance(value, str) else value


def _in_words(finding: Finding) -> str:
    kind = "CHANGED: " if finding.kind == CHANGED else ""
    uid = "" if finding.uid is None else f", UID {finding.uid}"
    where = f"{finding.folder}{uid}: " if finding.folder else ""
    path = f": {finding.path}" if finding.path else ""
    return f"{kind}{where}{finding.text}{path}"


def printable(line: str) -> str:
    """Escape control characters: anybody who can write to the mail store can choose file names."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
