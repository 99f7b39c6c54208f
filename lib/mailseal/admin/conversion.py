# SPDX-License-Identifier: MIT
"""Converts one user's stored mail, in processes of its owner, and describes the result.

    entry = Conversion("sealing", jobs=2).of(user, place, form)     # JSON, for all Maildirs
    describe(entry, "sealing")                                      # the same for people

After sealing, Dovecot's old index caches and full-text indexes in the mailbox are removed, because
they contain parts of mails.  Other files that contain parts of mails are listed.

FAILURES
    UsageError: the mail belongs to root.  NotPermitted.  whole.Busy.  If a run ends early, this is
    not an error: the entry says so.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from mailseal.admin import crew
from mailseal.admin.crew import Message
from mailseal.admin.mail_place import Place
from mailseal.admin.progress import Progress
from mailseal.admin.verify_result import printable
from mailseal.errors import NotPermitted, UsageError
from mailseal.mailbox import clear_text, whole
from mailseal.mailbox.forms import Form

Entry = dict[str, Any]

DONE = {"sealing": "sealed", "unsealing": "stored in clear", "resealing": "sealed again"}

_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Conversion:
    """How to convert, for all users.

    rate    bytes of mail per second; 0: no limit
    polite  pause while others use the machine: mailbox/pace.py
    """

    doing: str
    jobs: int = 1
    rate: int = 0
    shred: bool = False
    dry: bool = False
    quiet: bool = False
    polite: bool = False

    def of(self, user: str, place: Place, form: Form, more: Sequence[str] = ()) -> Entry:
        """Convert the mail of one user.  `more`: further Maildirs."""
        entry: Entry = {"user": user}
        progress = Progress(user, self.doing, quiet=self.quiet)
        try:
            for message in self.messages(user, place, form, more):
                if "done" in message:
                    progress.show(message["done"], message["total"])
                else:
                    merge(entry, message)
        finally:
            progress.end()
        return entry

    def messages(
        self, user: str, place: Place, form: Form, more: Sequence[str] = ()
    ) -> Iterator[Message]:
        """Messages about the progress (done, total), and a summary for each Maildir."""
        if place.owner[0] == 0:
            raise UsageError(
                f"the mail of {user} belongs to root; mailseal does not change mail as root",
                hint="set another uid in Dovecot's user database",
            )
        if os.geteuid() not in (0, place.owner[0]):
            raise NotPermitted(f"the mail of {user} belongs to uid {place.owner[0]}")
        roots = dict.fromkeys((*place.maildirs, *map(os.path.abspath, more)))
        owner = place.owner if os.geteuid() == 0 else None
        return crew.run(owner, [lambda: self._job(place, form, list(roots))])

    def _job(self, place: Place, form: Form, roots: Sequence[str]) -> Iterator[Message]:
        os.umask(0o077)
        before = 0
        for root in roots:
            if not os.path.isdir(root) and root in place.maildirs:
                yield _summary(whole.Report())  # the user has no mail yet
                continue
            if self.dry:
                yield _summary(whole.survey(root, form))
                continue
            report = whole.Report()
            with whole.held(root):
                for report in whole.steps(
                    root,
                    form,
                    jobs=self.jobs,
                    rate=self.rate,
                    shred=self.shred,
                    polite=self.polite,
                    elsewhere=place.elsewhere(root),
                ):
                    # Later Maildirs are not counted yet: the total grows, and nothing goes back.
                    done = before + min(report.tally.seen, report.total)
                    yield {"done": done, "total": before + report.total}
            before += report.total
            yield _summary(report)
        if self.doing != "unsealing" and not self.dry:
            yield _clear_text(place, roots, self.shred)


def _summary(report: whole.Report) -> Message:
    return {
        **dataclasses.asdict(report.tally),
        "gone": report.gone,
        "folders": report.folders,
        "skipped": [[skipped.path, skipped.why] for skipped in report.skipped],
        "swept": report.swept,
        "seconds": round(report.seconds, 1),
        "stopped": report.stopped,
    }


def _clear_text(place: Place, roots: Sequence[str], shred: bool) -> Message:
    """Remove old indexes with text in clear, and list other files that have some."""
    removed, named = [], []
    places = [(root, True) for root in roots]
    if place.home and not place.home.startswith(place.maildir):
        places.append((place.home, False))
    places += [(index, True) for index in place.indexes]
    for root, below in places:
        for path, what in clear_text.search(root, below=below):
            if os.path.basename(path) in clear_text.REBUILT and clear_text.remove(
                path, shred=shred
            ):
                removed.append(path)
                continue
            named.append([path, what])
    named += [[f"namespace {prefix}", why] for prefix, why in place.not_sealed]
    return {"removed": removed, "clear_text": named}


def merge(entry: Entry, message: Message) -> None:
    """Add up the results of several Maildirs of one user."""
    for name, value in message.items():
        entry[name] = entry[name] + value if name in entry else value


def describe(entry: Entry, doing: str, *, dry: bool = False) -> str:
    """The summary for people."""
    user = entry["user"]
    if "error" in entry:
        return f"{user}: NOT DONE: {printable(entry['error'])}\n"
    done = f"would be {DONE[doing]}" if dry else DONE[doing]
    already = entry.get("already", 0)
    lines = [f"{user}: {entry.get('converted', 0)} mails {done}, {already} already{_speed(entry)}"]
    if number := entry.get("swept"):
        lines.append(f"  {number} files of an interrupted run removed")
    if number := entry.get("not_overwritten"):
        lines.append(
            f"  {number} mails in clear not overwritten: in use, or with another hard link"
        )
    if number := entry.get("left"):
        lines.append(f"  NOT CONVERTED: {number} mails")
    named = [*entry.get("problems", ()), *entry.get("skipped", ())]
    lines += [f"    {printable(path)}: {printable(why)}" for path, why in named[:_SHOWN]]
    if len(named) > _SHOWN:
        lines.append(f"    and {len(named) - _SHOWN} more: see --json")
    if removed := entry.get("removed"):
        lines.append(f"  {len(removed)} old indexes with text in clear removed")
    lines += [
        f"  NOT SEALED: {printable(path)}: {what}" for path, what in entry.get("clear_text", ())
    ]
    if entry.get("stopped"):
        lines.append(f"  ENDED EARLY: {printable(entry['stopped'])}; run the command again")
    return "\n".join(lines) + "\n"


def _speed(entry: Entry) -> str:
    done, seconds = entry.get("converted", 0), entry.get("seconds", 0)
    if not done or not seconds:
        return ""
    return (
        f"; {entry['converted_bytes'] / 1e6:.1f} MB in {seconds:.1f} s, "
        f"{done / seconds:.0f} mails per second"
    )
