# SPDX-License-Identifier: MIT
"""Changes files so that they can be changed back, also after a kill at any moment.

Before the first change, the bytes of all files are copied to a folder that only root can read, and
`manifest.json` there names each file with its hash, mode and owner, before and after.  So each file
is as before, or as after, or somebody else has changed it; restore() knows which.

Each file is replaced in one step.  Nothing is changed by a name that anybody but root can replace.

FAILURES
    ConfigError: a file is not safe to change, or no regular file.  TemporaryError: disk full and
    similar; the files that were changed already can be restored.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from mailseal import durable
from mailseal.admin.setup import merge
from mailseal.errors import ConfigError, Conflict, Damaged, TemporaryError
from mailseal.paths import open_folder

_MANIFEST = "manifest.json"
_LOCK = "lock"

APPLYING, APPLIED, UNDOING = "applying", "applied", "undoing"
"""States of a manifest."""


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file is."""

    data: bytes
    mode: int
    owner: tuple[int, int]
    acl: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Change:
    """One file.  before: None if it does not exist.  stage: when it is changed, see flow.py."""

    path: str
    before: Content | None
    after: Content
    why: str
    stage: str


def read(path: str) -> Content | None:
    """A file that root may change; None if it does not exist.  Links are not followed."""
    folder = os.path.dirname(path)
    if not os.path.lexists(folder):
        return None
    with open_folder(folder) as opened:
        if not opened.own:
            raise ConfigError(f"{folder}: other users than root can change what is in this folder")
        try:
            fd = os.open(
                os.path.basename(path),
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                dir_fd=opened.fd,
            )
        except FileNotFoundError:
            return None
        except OSError as exc:
            what = "is a symbolic link" if os.path.islink(path) else f"{exc.strerror}"
            raise ConfigError(f"{path}: {what}; it is not changed") from None
    with open(fd, "rb") as stream:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            raise ConfigError(f"{path}: not a regular file with one name; it is not changed")
        by_group = state.st_mode & stat.S_IWGRP and state.st_gid != 0
        if state.st_uid not in (0, os.geteuid()) or by_group or state.st_mode & stat.S_IWOTH:
            raise ConfigError(f"{path}: other users than root can change this file")
        acl = None
        with contextlib.suppress(OSError):
            acl = os.getxattr(fd, durable.ACL)
        owner = (state.st_uid, state.st_gid)
        return Content(stream.read(), stat.S_IMODE(state.st_mode), owner, acl)


class Entry:
    """One file of the manifest."""

    def __init__(self, folder: str, number: int, fields: dict[str, Any]) -> None:
        self.path: str = fields["path"]
        self.why: str = fields["why"]
        self.stage: str = fields["stage"]
        self._fields = fields
        self._copies = {when: f"{folder}/{number}.{when}" for when in ("before", "after")}

    def content(self, when: str) -> Content | None:
        """The file before or after the change; None if there was none.  Raises Damaged."""
        about = self._fields[when]
        if about is None:
            return None
        copy = self._copies[when]
        with durable.reporting(f"cannot read {copy}"), open(copy, "rb") as stream:
            data = stream.read()
        if _hash(data) != about["sha256"]:
            raise Damaged(f"{copy}: this copy of {self.path} is damaged")
        acl = base64.b64decode(about["acl"]) if about["acl"] else None
        return Content(data, about["mode"], (about["uid"], about["gid"]), acl)

    def state(self) -> str:
        """One of "before", "after", and "changed": by somebody else.

        "before" is also a file in which restore() has kept other changes.
        """
        found = read(self.path)
        if found is not None and _hash(found.data) == self._fields.get("kept"):
            return "before"
        for when in ("after", "before"):
            about = self._fields[when]
            if found is None or about is None:
                if found is about:
                    return when
            elif _hash(found.data) == about["sha256"]:
                return when
        return "changed"

    def put(self) -> None:
        """Change the file.  Raises Conflict if it is not as before."""
        after = self.content("after")
        if after is None or self.state() != "before":
            raise Conflict(f"{self.path} was changed by somebody else; it is not changed")
        _write(self.path, after)

    def restore(self, store: Callable[[], None]) -> str:
        """Change it back.  Returns "restored", "kept" (with other changes), or "conflict".

        Changes that somebody has made in other lines are kept.  Of a new file, nothing is kept.
        `store` writes the manifest, so that this can be run again.
        """
        if os.path.lexists(os.path.dirname(self.path)):
            durable.sweep(self.path)
        if self.state() == "before":
            return "restored"
        before, after, found = self.content("before"), self.content("after"), read(self.path)
        if self.state() == "after":
            if before is None:
                durable.remove(self.path)
            else:
                _write(self.path, before)
            return "restored"
        merged = None
        if before is not None and after is not None and found is not None:
            merged = merge.without(found.data, before.data, after.data)
        if merged is None or found is None:
            return "conflict"
        self._fields["kept"] = _hash(merged)
        store()
        _write(self.path, dataclasses.replace(found, data=merged))
        return "kept"

    def can_restore(self) -> bool:
        """Whether restore() would not return "conflict"."""
        if self.state() != "changed":
            return True
        before, after, found = self.content("before"), self.content("after"), read(self.path)
        if before is None or after is None or found is None:
            return False
        return merge.without(found.data, before.data, after.data) is not None


class Journal:
    """The folder with the manifest."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._fields: dict[str, Any] = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One setup at a time.  The folder is made if it is missing."""
        durable.make_folder(os.path.dirname(self.folder), mode=0o711)
        durable.make_folder(self.folder, mode=0o700)
        self._must_be_ours()
        with durable.reporting(f"cannot lock {self.folder}"):
            fd = os.open(
                f"{self.folder}/{_LOCK}",
                os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TemporaryError("another `mailseal setup` is running") from None
            self.load()
            yield
        finally:
            os.close(fd)

    def load(self) -> None:
        """Read the manifest, if there is one."""
        self._fields = {}
        if not os.path.lexists(self.folder):
            return
        self._must_be_ours()
        path = f"{self.folder}/{_MANIFEST}"
        if not os.path.lexists(path):
            return
        try:
            with durable.reporting(f"cannot read {path}"), open(path, encoding="utf-8") as stream:
                self._fields = json.load(stream)
            self.entries()
        except (ValueError, KeyError, TypeError):
            raise Damaged(f"{path} is damaged") from None

    def _must_be_ours(self) -> None:
        with open_folder(self.folder) as opened:
            if not opened.own or os.stat(opened.fd).st_mode & 0o077:
                raise ConfigError(f"{self.folder}: other users than root may use this folder")

    @property
    def state(self) -> str | None:
        """APPLYING, APPLIED, UNDOING, or None: there is no manifest."""
        return self._fields.get("state")

    def entries(self) -> list[Entry]:
        """The files, in the order in which they are changed."""
        listed = self._fields.get("files", [])
        return [Entry(self.folder, number, fields) for number, fields in enumerate(listed)]

    def get(self, name: str, default: Any = None) -> Any:
        """Something that was noted."""
        return self._fields.get("notes", {}).get(name, default)

    def begin(self, changes: list[Change], **notes: Any) -> None:
        """Write the copies and the manifest.  Nothing is changed yet."""
        self._sweep()
        files = []
        for number, change in enumerate(changes):
            fields: dict[str, Any] = {"path": change.path, "why": change.why, "stage": change.stage}
            for when, content in (("before", change.before), ("after", change.after)):
                fields[when] = None
                if content is not None:
                    durable.replace(f"{self.folder}/{number}.{when}", content.data, alone=True)
                    fields[when] = _about(content)
            files.append(fields)
        made = [folder for change in changes for folder in _missing(change.path)]
        notes = {"folders": list(dict.fromkeys(made)), **notes}
        self._fields = {"version": 1, "state": APPLYING, "files": files, "notes": notes}
        self._store()

    def note(self, **notes: Any) -> None:
        """Remember something that is to be undone; before it is done."""
        self._fields["notes"] |= notes
        self._store()

    def become(self, state: str) -> None:
        """Change the state."""
        self._fields["state"] = state
        self._store()

    def make_folders(self) -> None:
        """The missing folders of new files."""
        for folder in self.get("folders"):
            durable.make_folder(folder, mode=0o755)

    def put(self, stage: str) -> None:
        """Change the files of this stage."""
        for entry in self.entries():
            if entry.stage == stage:
                entry.put()

    def restore(self, entry: Entry) -> str:
        """See Entry.restore()."""
        return entry.restore(self._store)

    def end(self) -> None:
        """Everything is as before: remove folders that were made, and the manifest."""
        for folder in reversed(self.get("folders", [])):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        durable.remove(f"{self.folder}/{_MANIFEST}")
        self._fields = {}
        self._sweep()

    def _sweep(self) -> None:
        """Copies without a manifest, of a run that was killed."""
        with durable.reporting(f"cannot use {self.folder}"):
            for name in os.listdir(self.folder):
                if name not in (_MANIFEST, _LOCK):
                    os.unlink(f"{self.folder}/{name}")

    def _store(self) -> None:
        text = json.dumps(self._fields, indent=1)
        durable.replace(f"{self.folder}/{_MANIFEST}", text.encode(), alone=True)


def _write(path: str, content: Content) -> None:
    """In one step.  read() has found the folder safe; it is looked at again."""
    with open_folder(os.path.dirname(path)) as opened:
        if not opened.own:
            raise ConfigError(f"{opened.path}: other users than root can change this folder")
    durable.replace(
        path,
        content.data,
        mode=content.mode,
        owner=content.owner if os.geteuid() == 0 else None,
        acl=content.acl,
        alone=True,
    )


def _missing(path: str) -> list[str]:
    """The folders above a path that do not exist, the uppermost first."""
    found = []
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        found.append(folder)
        folder = os.path.dirname(folder)
    return found[::-1]


def _about(content: Content) -> dict[str, Any]:
    return {
        "sha256": _hash(content.data),
        "mode": content.mode,
        "uid": content.owner[0],
        "gid": content.owner[1],
        "acl": base64.b64encode(content.acl).decode() if content.acl else None,
    }


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
