# SPDX-License-Identifier: MIT
"""The folders of one user's mail, on disk: Maildir++ and LAYOUT=fs.

A folder is whatever has cur/ and new/ in it.  Links are not followed: what lies behind one
is not certainly the user's own.  They are reported, as is what cannot be read.

FAILURES
    None: problems are yielded beside the folders, and the walk goes on.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

PARTS = ("cur", "new")
_OWN = frozenset(("cur", "new", "tmp"))


@dataclasses.dataclass(frozen=True, slots=True)
class Folder:
    """One mailbox folder.  `name` is what people read: INBOX, Sent, Work/2024."""

    path: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was not looked into, and why."""

    path: str
    why: str


def walk(root: str) -> Iterator[Folder | Skipped]:
    """Every folder at or below `root`, INBOX first, then by name."""
    if os.path.islink(root):
        yield Skipped(root, "is a link")
        return
    yield from _walk(root, ())


def _walk(path: str, above: tuple[str, ...]) -> Iterator[Folder | Skipped]:
    try:
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as exc:
        yield Skipped(path, exc.strerror or "cannot be read")
        return
    folders = {entry.name for entry in found if entry.is_dir(follow_symlinks=False)}
    if folders >= set(PARTS):
        yield Folder(path, "/".join(above) or "INBOX")
    for entry in found:
        if entry.name in _OWN and folders >= set(PARTS):
            if entry.is_symlink():
                yield Skipped(entry.path, "is a link")
        elif entry.is_symlink():
            if os.path.isdir(entry.path):
                yield Skipped(entry.path, "is a link")
        elif entry.is_dir(follow_symlinks=False):
            # Maildir++ writes Work/2024 as .Work.2024
            parts = entry.name[1:].split(".") if entry.name.startswith(".") else [entry.name]
            yield from _walk(entry.path, (*above, *parts))
