# SPDX-License-Identifier: MIT
"""The result of an audit: hits for each place and user, as table and JSON, and the verdict."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from tests.audit.day import ALICE, CONTROL, EARLIER, SIEVE
from tests.audit.disk import FREE, JOURNAL
from tests.audit.words import Hit

COLUMNS = {
    ALICE: "enrolled",
    SIEVE: "enrolled, Sieve",
    EARLIER: "sealed later",
    CONTROL: "control",
}
PROTECTED = (ALICE, SIEVE, EARLIER)
PLACES = (
    "store",
    "index",
    "cache",
    "full-text index",
    "Sieve's files",
    "temporary files",
    "other files",
    "free blocks",
    "journal",
    "queue",
    "queue, free blocks",
    "queue, journal",
    "logs on the disk",
    "log of mailseal",
    "log of Dovecot",
    "log of Postfix",
    "memory (tmpfs)",
)

# By default logs contain these: of SMTP, and of replies of Sieve's vacation.
_LOGGED = {
    "log of Postfix": (
        {"From address", "Message-ID"},
        "Postfix logs the envelope sender and the Message-ID",
    ),
    "log of Dovecot": ({"From address"}, "Sieve's vacation logs whom it answers, and whom not"),
}

# The first one that matches a path is used.
_OF_PATH = (
    (r"(^|/)log/", "logs on the disk"),
    (r"^/?lab/tmp/", "temporary files"),
    (r"(^|/)postfix/queue/|^queue/", "queue"),
    (r"dovecot\.index\.cache", "cache"),
    (r"xapian-indexes|fts-flatcurve|fts", "full-text index"),
    (r"lda-dupes|\.svbin|\.sieve|(^|/)sieve/", "Sieve's files"),
    (r"(^|/)(cur|new|tmp)/[^/]*,S=|/Maildir/[^/]*/?(cur|new|tmp)(/|$)", "store"),
    (r"dovecot[.-]|/index/|dovecot\.list", "index"),
    (r"/mail/", "store"),
)


def place_of(path: str) -> str:
    """The row of a file of the store's disk."""
    if path == FREE:
        return "free blocks"
    if path == JOURNAL:
        return "journal"
    return next((place for regex, place in _OF_PATH if re.search(regex, path)), "other files")


def place_in_queue(path: str) -> str:
    """The row of a file of the queue's disk."""
    if path in (FREE, JOURNAL):
        return "queue, free blocks" if path == FREE else "queue, journal"
    return "logs on the disk" if path.startswith("log") else "queue"


@dataclasses.dataclass
class Result:
    """Hits by place and user; `searched` is bytes."""

    dovecot: str
    encrypted_queue: bool
    counts: dict[str, Counter[str]] = dataclasses.field(
        default_factory=lambda: defaultdict(Counter)
    )
    examples: dict[str, set[str]] = dataclasses.field(default_factory=lambda: defaultdict(set))
    leaked: set[str] = dataclasses.field(default_factory=set)
    searched: int = 0
    full_text: bool = False

    def add(self, hits: Iterable[tuple[Hit, str]], place: str) -> None:
        for hit, path in hits:
            self.counts[place][hit.owner] += 1
            if hit.owner in PROTECTED:
                short = re.sub(r"^.*?/(?=mail/|log/|postfix/)", "", path)
                self.examples[place].add(f"{hit.part}, {hit.form}: {short}")
                if hit.part not in _LOGGED.get(place, ((),))[0] and not self.informs(place):
                    self.leaked.add(place)

    def informs(self, place: str) -> str:
        """Why hits there are not a fault of mailseal; "" if there must be none."""
        if place == "memory (tmpfs)":
            return "not on the disk; after a crash, until the next login or reboot"
        if not self.encrypted_queue and (place.startswith("queue") or place == "logs on the disk"):
            return "the queue's file system is not encrypted; see docs/disk.md"
        return ""

    def leaks(self) -> list[str]:
        """The places with forbidden words of protected users."""
        return [place for place in PLACES if place in self.leaked]

    def blind(self) -> bool:
        """Whether the control user was not found; then the search does not work."""
        return not self.counts["store"][CONTROL]

    @property
    def green(self) -> bool:
        return not self.leaks() and not self.blind()

    def table(self) -> str:
        wide = [22, *(len(name) + 2 for name in COLUMNS.values())]
        lines = [
            "".join(text.ljust(n) for text, n in zip(("", *COLUMNS.values()), wide, strict=True))
        ]
        for place in PLACES:
            numbers = [self.counts[place][user] for user in COLUMNS]
            if place.startswith(("queue", "logs on")) and self.encrypted_queue and not any(numbers):
                note = "  (encrypted)"
            elif any(numbers[:-1]):
                note = "  " + self._note(place)
            else:
                note = ""
            cells = (place, *map(str, numbers))
            lines.append("".join(text.ljust(n) for text, n in zip(cells, wide, strict=True)) + note)
        return "\n".join(line.rstrip() for line in lines)

    def _note(self, place: str) -> str:
        if place in self.leaked:
            return "LEAK"
        return self.informs(place) or _LOGGED[place][1]

    def as_json(self) -> dict[str, Any]:
        return {
            "dovecot": self.dovecot,
            "queue_encrypted": self.encrypted_queue,
            "full_text_search": self.full_text,
            "bytes_searched": self.searched,
            "hits": {p: {COLUMNS[u]: self.counts[p][u] for u in COLUMNS} for p in PLACES},
            "examples": {place: sorted(found)[:40] for place, found in self.examples.items()},
            "leaks": self.leaks(),
            "control_found": not self.blind(),
            "green": self.green,
        }
