# SPDX-License-Identifier: MIT
"""The folders of one user's mail, on disk: Maildir++ and LAYOUT=fs.

A folder is a directory that contains cur/ and new/.  Links are not followed, because their
targets may not belong to the user.  Links and unreadable directories are reported.

FAILURES
    None: problems are yielded like folders, and the walk continues.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from mailseal import durable

PARTS = ("cur", "new")
_OWN = frozenset((*PARTS, "tmp"))


@dataclasses.dataclass(frozen=True, slots=True)
class Folder:
    """One mailbox folder.  `name` is the name for people: INBOX, Sent, Work/2024."""

    path: str
    name: str

    def mails(self) -> Iterator[tuple[str, str]]:
        """For each mail "cur" or "new", and the file name.  Raises TemporaryError."""
        for part in PARTS:
            with (
                durable.reporting(f"cannot list {self.path}/{part}"),
                os.scandir(f"{self.path}/{part}") as entries,
            ):
                for entry in entries:
                    # As in Dovecot, a name that begins with a dot is not a mail.
                    if not entry.name.startswith("."):
                        yield part, entry.name


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A path that was skipped, and the reason."""

    path: str
    why: str


def is_gone(path: str) -> bool:
    """Whether a client has renamed or deleted this folder meanwhile."""
    return not os.path.isdir(f"{path}/{PARTS[0]}")


def walk(root: str) -> Iterator[Folder | Skipped]:
    """Every folder at or below `root`, INBOX first, then by name."""
    if os.path.islink(root):
        yield Skipped(root, "is a link")
        return
    waiting: list[tuple[str, tuple[str, ...]]] = [(root, ())]
    while waiting:
        path, above = waiting.pop()
        try:
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as exc:
            yield Skipped(path, exc.strerror or "cannot be read")
            continue
        folders = {entry.name for entry in found if entry.is_dir(follow_symlinks=False)}
        whole = folders >= set(PARTS)
        linked = [entry for entry in found if entry.is_symlink() and entry.is_dir()]
        for entry in linked:
            yield Skipped(entry.path, "is a link")
        # If tmp/ is a link, the old file would be moved to the target of that link.
        if whole and not any(entry.name == "tmp" for entry in linked):
            yield Folder(path, "/".join(above) or "INBOX")
        # Not recursive: folders may be nested more deeply than Python permits calls to be.
        for entry in reversed(found):
            if entry.name in folders and not (whole and entry.name in _OWN):
                # Maildir++ writes Work/2024 as .Work.2024
                name = entry.name
                parts = name[1:].split(".") if name.startswith(".") else [name]
                waiting.append((entry.path, (*above, *parts)))
