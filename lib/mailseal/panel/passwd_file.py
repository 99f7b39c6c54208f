# SPDX-License-Identifier: MIT
"""A new hash in one line of a passwd-file, one writer at a time.

The lock is on FILE.lock, not on the file itself, which each change replaces as a whole:
a reader sees the old file or the new one, with the same owner and mode.

FAILURES
    NoSuchUser, Damaged (the user stands there twice), ConfigError (the file cannot be read,
    or others can write here): nothing has changed.  TemporaryError and DiskFull when the new
    file could not be written or synced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator

from mailseal import durable
from mailseal.errors import ConfigError, Damaged, NoSuchUser
from mailseal.panel.configuration import require_own


def write(path: str, user: str, hashed: str) -> None:
    """Replace the second field of the user's line."""
    path = os.path.realpath(path)
    try:
        require_own(os.stat(os.path.dirname(path)), os.path.dirname(path))
        with _locked(f"{path}.lock"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(fd, "rb") as stream:
                found = os.fstat(fd)
                before = stream.read()
            after = _changed(before, os.fsencode(user), hashed.encode())
            owner = (found.st_uid, found.st_gid)
            durable.replace(path, after, mode=stat.S_IMODE(found.st_mode), owner=owner)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from None


def _changed(data: bytes, user: bytes, hashed: bytes) -> bytes:
    lines = data.split(b"\n")
    places = [at for at, line in enumerate(lines) if line.split(b":", 1)[0] == user]
    if not places:
        raise NoSuchUser(f"{os.fsdecode(user)} is not in the file")
    if len(places) > 1 or user.startswith(b"#") or b":" in user:
        raise Damaged(f"{os.fsdecode(user)} is in the file {len(places)} times")
    name, _, *rest = lines[places[0]].split(b":")
    lines[places[0]] = b":".join((name, hashed, *rest))
    return b"\n".join(lines)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
