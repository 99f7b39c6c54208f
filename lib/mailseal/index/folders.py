# SPDX-License-Identifier: MIT
"""The index folders: one for each enrolled user, each encrypted with its own key.

    index/                      owner: the agent; group: that of the mail; mode 2711
        alice@example.org/      owner: the agent; mode 0700; an ACL for the owner of the mail

CONTRACT
    unlock() makes the folder if it does not exist, and gives its key to the kernel.  lock() removes
    the key from the kernel.  A folder with another key (after a rekey) is renamed and made again:
    Dovecot can always build the index again.  Only the agent and root can replace a folder.
    No folder is kept open here, because an open folder cannot be locked.

FAILURES
    Unsupported: the file system has no fscrypt.  OSError: other failures.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator

from mailseal.index import fscrypt
from mailseal.keys.names import file_name

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOM, _FILES = 64 << 20, 100
"""Bytes that must be free, or a twentieth of a small file system, and files."""

_ASIDE, _NEW = ".gone.", ".new."


def folder_name(user: str) -> str:
    """The name of a user's index folder: file_name() without "%", which is special in
    Dovecot's settings.  Different users have different names."""
    return file_name(user).replace("%", "=")


class Folders:
    """All index folders below `root`.  `owner`: the uid that mail belongs to."""

    def __init__(self, root: str, owner: int) -> None:
        self.root = root
        self._acl = _acl(owner)

    def path(self, name: str) -> str:
        """The path of a user's index folder."""
        return os.path.join(self.root, name)

    def unlock(self, name: str, key: bytes | bytearray) -> bytes:
        """Make the folder usable; returns the identifier of its key."""
        with self._open_root() as root:
            if fscrypt.policy(root) is not None:
                raise fscrypt.Unsupported(0, f"{self.root} is itself encrypted")
            _require_room(root)
            os.utime(root)  # read-only, damaged or frozen: it shows here, and not in Dovecot
            found = self._policy_of(name, root)
            identifier = fscrypt.add_key(root, key)
            if found != identifier:
                try:
                    if found is not None:
                        self._put_aside(name, root)
                    self._make(name, identifier, root)
                except OSError:
                    fscrypt.remove_key(root, identifier)  # no folder would tell of it
                    raise
            return identifier

    def lock(self, identifier: bytes) -> fscrypt.State:
        """Remove a key: ABSENT, or BUSY while files are open."""
        with self._open_root() as root:
            return fscrypt.remove_key(root, identifier)

    def sync(self) -> None:
        """Write all data to disk, so that lock() does not wait for it."""
        with self._open_root() as root:
            fscrypt.sync(root)

    def state(self, name: str) -> tuple[bytes, fscrypt.State] | None:
        """The identifier and the state of a folder's key; None if there is no such folder."""
        with self._open_root() as root:
            identifier = self._policy_of(name, root)
            return (identifier, fscrypt.state(root, identifier)) if identifier else None

    def open_ones(self) -> dict[str, bytes]:
        """Name and identifier of each folder that is unlocked, completely or in part."""
        found = {}
        with self._open_root() as root:
            fscrypt.policy(root)
            for name in os.listdir(root):
                with contextlib.suppress(OSError):
                    identifier = self._policy_of(name, root)
                    if identifier and fscrypt.state(root, identifier) != fscrypt.State.ABSENT:
                        found[name] = identifier
        return found

    def count(self) -> int:
        """Number of folders of users, unlocked or not."""
        with os.scandir(self.root) as entries:
            return sum(not entry.name.startswith((_ASIDE, _NEW, "lost+found")) for entry in entries)

    def drop(self, name: str) -> None:
        """Rename a folder that is not needed any more."""
        with self._open_root() as root, contextlib.suppress(FileNotFoundError):
            self._put_aside(name, root)

    def aside(self) -> list[str]:
        """The folders that were put aside, or never came into use, and have no key any more.

        What is in them belongs to the owner of the mail, who can remove it although it is locked.
        """
        with self._open_root() as root:
            names = [name for name in os.listdir(root) if name.startswith((_ASIDE, _NEW))]
        return [name for name in names if self._has_no_key(name)]

    def remove(self, name: str) -> None:
        """Remove a folder that is empty; OSError if it is not."""
        with self._open_root() as root:
            os.rmdir(name, dir_fd=root)

    def _has_no_key(self, name: str) -> bool:
        found = self.state(name)
        return found is None or found[1] is fscrypt.State.ABSENT

    @contextlib.contextmanager
    def _open_root(self) -> Iterator[int]:
        fd = os.open(self.root, _FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)

    def _policy_of(self, name: str, root: int) -> bytes | None:
        """The identifier; empty if the folder is not encrypted, None if it does not exist."""
        try:
            fd = os.open(name, _FOLDER, dir_fd=root)
        except FileNotFoundError:
            return None
        try:
            return fscrypt.policy(fd) or b""
        finally:
            os.close(fd)

    def _make(self, name: str, identifier: bytes, root: int) -> None:
        temporary = f"{_NEW}{os.urandom(8).hex()}"
        os.mkdir(temporary, 0o700, dir_fd=root)
        fd = os.open(temporary, _FOLDER, dir_fd=root)
        try:
            fscrypt.set_policy(fd, identifier)
            os.setxattr(fd, "system.posix_acl_access", self._acl)
            os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=root)
        except OSError:
            os.rmdir(temporary, dir_fd=root)
            raise
        finally:
            os.close(fd)

    def _put_aside(self, name: str, root: int) -> None:
        aside = f"{_ASIDE}{os.urandom(8).hex()}"
        os.rename(name, aside, src_dir_fd=root, dst_dir_fd=root)


def _require_room(root: int) -> None:
    """Dovecot cannot open a mailbox if there is no room for the folder of its index."""
    state = os.fstatvfs(root)
    size = state.f_blocks * state.f_frsize
    if state.f_bavail * state.f_frsize < min(_ROOM, size // 20) or state.f_favail < _FILES:
        raise OSError(errno.ENOSPC, "the file system of the index folders is almost full")


def _acl(uid: int) -> bytes:
    """rwx for the owner and this uid, nothing for others: acl(5), linux/posix_acl_xattr.h."""
    nobody = 0xFFFFFFFF
    entries = ((0x01, 7, nobody), (0x02, 7, uid), (0x04, 0, nobody), (0x10, 7, nobody))
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry) for entry in (*entries, (0x20, 0, nobody))
    )
