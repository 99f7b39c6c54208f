# SPDX-License-Identifier: MIT
"""The store of keyrings: one file for each user, in a folder that only the agent can read.

LAYOUT
    FOLDER/NAME.json     the keyring
    FOLDER/NAME.json#tmp a new one while it is written, or left by a power failure
    FOLDER/locks/XX      lock files, shared by all users whose file name hashes to XX
    FOLDER/moved         the keyrings have moved to the store that this file names

CONTRACT
    See KeyringStore in stores.py.

FAILURES
    NotEnrolled: no file.  AlreadyEnrolled, Conflict, Damaged, NewerFormat;
    other disk errors raise TemporaryError.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager

from mailseal import durable
from mailseal.errors import (
    AlreadyEnrolled,
    Conflict,
    Damaged,
    NotEnrolled,
    TemporaryError,
)
from mailseal.keys import listing
from mailseal.keys.keyring import Keyring
from mailseal.keys.names import file_name
from mailseal.keys.stores import ReadKeyrings, Revision

# 64 keys and 64 slots take about 60 KB.
_MAX_FILE = 1 << 20

# Earlier versions used the second form, with a different name for each temporary file.
_LEFT_OVER = re.compile(r"(.+)\.json(#tmp|\.tmp\.\d+\.[0-9a-f]{8})")


class Keystore(ReadKeyrings):
    """The keyrings of all users."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._held = threading.local()

    def prepare(self, owner: tuple[int, int] | None = None) -> None:
        """Make the folders if they are missing."""
        durable.make_folder(self.folder, mode=0o700, owner=owner)
        durable.make_folder(os.path.join(self.folder, "locks"), mode=0o700, owner=owner)

    def revision(self, user: str) -> Revision | None:
        """The revision of the stored content; None if there is none.  One stat(2)."""
        try:
            found = os.stat(self._path(user))
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise durable.error_of(exc, f"cannot read the keyring of {user}") from None
        return _revision(found)

    def create(self, keyring: Keyring) -> None:
        """Store a new user's keyring.  Raises AlreadyEnrolled if there is one."""
        with self.locked(keyring.user):
            try:
                durable.create(self._path(keyring.user), keyring.encode())
            except FileExistsError:
                raise AlreadyEnrolled(f"{keyring.user} already has a keyring") from None

    def save(self, keyring: Keyring, *, before: Keyring) -> Keyring:
        """Replace `before` by `keyring`.  Returns the stored keyring with its new revision."""
        with self.locked(keyring.user):
            _check_revision(self.load(keyring.user), before.revision)
            stored = dataclasses.replace(keyring, revision=before.revision + 1)
            durable.replace(self._path(keyring.user), stored.encode(), alone=True)
        return stored

    def overwrite(self, keyring: Keyring) -> None:
        """Store a keyring and replace any existing one: to restore a backup."""
        with self.locked(keyring.user):
            durable.replace(self._path(keyring.user), keyring.encode(), alone=True)

    def remove(self, user: str) -> None:
        """Delete the user's keyring permanently."""
        with self.locked(user):
            durable.remove(self._path(user))

    def end_sessions(self, user: str | None) -> None:
        """Nothing: there is one agent."""

    def sweep(self, user: str) -> list[str]:
        """Remove the user's temporary file after a power failure; its name.  Under locked()."""
        path = self._path(user)
        return [os.path.basename(path) + durable.LEFT_OVER] if durable.sweep(path) else []

    def sweep_all(self) -> list[str]:
        """Remove the temporary files of all users after power failures; their names."""
        with durable.reporting(f"cannot list {self.folder}"):
            entries = sorted(os.listdir(self.folder))
        found = []
        for entry in entries:
            if (match := _LEFT_OVER.fullmatch(entry)) is None:
                continue
            with self._locked_name(match[1]):
                durable.remove(os.path.join(self.folder, entry))
            found.append(entry)
        return found

    def users(self) -> list[str]:
        """See listing.users().  A user who is missing there is in the public key store."""
        return listing.users(self.folder)

    def _path(self, user: str) -> str:
        return os.path.join(self.folder, f"{file_name(user)}.json")

    def _read(self, user: str) -> tuple[bytes, Revision]:
        path = self._path(user)
        with durable.reporting(f"cannot read the keyring of {user}"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                raise NotEnrolled(f"{user} is not enrolled") from None
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_FILE:
                    raise Damaged(f"the keyring of {user} was not written by mailseal")
                data = b"".join(iter(lambda: os.read(fd, 65536), b""))
            finally:
                os.close(fd)
        return data, _revision(found)

    def locked(self, user: str) -> AbstractContextManager[None]:
        """Hold the user's lock.  A thread may take it again.  It ends with the process."""
        return self._locked_name(file_name(user))

    def close(self, where: str) -> None:
        """The keyrings have moved: nobody changes them here any more."""
        with contextlib.ExitStack() as held:
            for stripe in range(256):
                held.enter_context(self._locked_stripe(f"{stripe:02x}"))
            durable.replace(self._moved, f"{where}\n".encode(), alone=True)

    def is_closed(self) -> bool:
        """Whether the keyrings have moved away."""
        return os.path.lexists(self._moved)

    def open(self) -> None:
        """As before."""
        durable.remove(self._moved)

    @property
    def _moved(self) -> str:
        return os.path.join(self.folder, "moved")

    def _require_open(self) -> None:
        with durable.reporting(f"cannot read {self._moved}"):
            try:
                with open(self._moved, encoding="utf-8") as stream:
                    where = stream.readline().strip()
            except FileNotFoundError:
                return
        raise TemporaryError(
            f"the keys have moved to {where}",
            hint="set keys.store in mailseal.yaml, and restart mailseal's services",
        )

    @contextlib.contextmanager
    def _locked_name(self, name: str) -> Iterator[None]:
        with self._locked_stripe(hashlib.sha256(name.encode()).hexdigest()[:2]):
            self._require_open()
            yield

    @contextlib.contextmanager
    def _locked_stripe(self, stripe: str) -> Iterator[None]:
        held: set[str] = self._held.__dict__.setdefault("stripes", set())
        if stripe in held:
            yield
            return
        path = os.path.join(self.folder, "locks", stripe)
        with durable.reporting(f"cannot lock {path}"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with durable.reporting(f"cannot lock {path}"):
                fcntl.flock(fd, fcntl.LOCK_EX)
            held.add(stripe)
            yield
        finally:
            held.discard(stripe)
            os.close(fd)


def _revision(found: os.stat_result) -> Revision:
    """The revision: inode, time of change (ns) and size are different for other content."""
    return Revision(f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}")


def _check_revision(found: Keyring, expected: int) -> None:
    """Raise Conflict if the stored keyring has changed since the change began."""
    if found.revision != expected:
        raise Conflict(
            f"the keyring of {found.user} was changed by another process at the same time",
            hint="nothing was written; try again",
        )
