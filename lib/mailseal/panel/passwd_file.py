# SPDX-License-Identifier: MIT
"""Writes a hash to one line of a passwd-file, one writer at a time.

The lock is on FILE.lock, because each change replaces the file itself: a reader sees the
old file or the new one, with the same owner, mode and ACL.

FAILURES
    Nothing has changed after NoSuchUser, Damaged (the user is in the file twice), BadPassword (a
    scheme in clear, and a colon), ConfigError (the file cannot be read, or others can write
    to it or to a parent folder).  TemporaryError and DiskFull: the new file could not be
    written or synced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator

from mailseal import durable
from mailseal.errors import BadPassword, ConfigError, Damaged, NoSuchUser
from mailseal.panel.configuration import require_own
from mailseal.paths import open_folder


def write(path: str, user: str, hashed: str) -> None:
    """Replace the second field of the user's line."""
    if ":" in hashed:
        raise BadPassword(
            "with this scheme, a password with a colon cannot be stored in a passwd-file"
        )
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    try:
        with open_folder(folder) as opened:
            if not opened.own:
                raise ConfigError(f"users other than root can change or replace {folder}")
        with _locked(f"{path}.lock"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(fd, "rb") as stream:
                found = os.fstat(fd)
                require_own(found, path)
                before, acl = stream.read(), _acl(fd)
            after = _changed(before, os.fsencode(user), hashed.encode("utf-8", "surrogateescape"))
            mode, owner = stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid)
            durable.replace(path, after, mode=mode, owner=owner, acl=acl, alone=True)
            _make_newer(path, found.st_mtime_ns)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from None


def _make_newer(path: str, before: int) -> None:
    """Let the file's time be at least a second after `before`, in ns.

    Dovecot looks at the file at most once a second, and reads a file of the same size again only
    if the second of its time differs (db-passwd-file.c).
    """
    time = max(os.stat(path).st_mtime_ns, before + 1_000_000_000)
    os.utime(path, ns=(time, time), follow_symlinks=False)


def _acl(fd: int) -> bytes | None:
    """Copy the ACL: Dovecot may need it to read the file."""
    try:
        return os.getxattr(fd, durable.ACL)
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


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
