# SPDX-License-Identifier: MIT
"""The public key store: one file for each enrolled user.

LAYOUT
    FOLDER/mailseal-public-keys   shows that this is the store, and not an empty
                                  mount point; or that it is a replica, and how long
                                  it is certainly current (lease.py)
    FOLDER/NAME.json              format, version, user, key id, public key
    FOLDER/enrolled/NAME          the user is enrolled, even if the key is missing;
                                  not empty while the user is being unenrolled
    Folders have mode 0711 (open by name, no listing), files 0644.

CONTRACT
    lookup() returns None only if it is certain that the user is not
    enrolled: the folder is the right one, there is no key file and no enrolled
    mark; and of a replica the lease is in force.  In all other cases without a
    valid key it raises, so that mail is deferred and never stored in clear if a key
    file is lost or damaged.
    publish() sets the mark before the key, withdraw() removes the key before
    the mark: a crash in between leaves "enrolled, key missing", which defers.

FAILURES
    Damaged: the content of the key file is wrong.  NewerFormat: written by a
    newer version of mailseal.  TemporaryError: unreadable, missing, the wrong folder, or a replica
    without a lease.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mailseal import durable
from mailseal.errors import Damaged, NewerFormat, TemporaryError
from mailseal.keys import lease, listing, record
from mailseal.keys.lease import FOLDER_MARK
from mailseal.keys.names import file_name, normalise, user_of_file

if TYPE_CHECKING:
    from mailseal.crypto.eckeys import PublicKey

FORMAT = "mailseal-public-key"
VERSION = 1
LEAVING = b"is being unenrolled\n"
_FIELDS = {"format", "version", "user", "key_id", "spki"}
MAX_FILE = 16384
# An entry holds about 1 KB, so 20 MB at most.
_CACHE_ENTRIES = 20000


class PublicStore:
    """Public keys by user.  Reading only needs execute permission on the folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._cache: dict[str, tuple[tuple[int, int, int], PublicKey]] = {}
        # Normalising and escaping took 7 % of the delivery daemon's time for a small mail.
        self._names: dict[str, str] = {}
        self._lease = lease.Lease(folder)

    def prepare(self, owner: tuple[int, int] | None = None, *, replica: bool = False) -> None:
        """Make the folders and the folder mark if they are missing.

        A new `replica` has no lease yet.
        """
        durable.make_folder(self.folder, mode=0o711, owner=owner)
        durable.make_folder(self._enrolled_folder, mode=0o711, owner=owner)
        mark = os.path.join(self.folder, FOLDER_MARK)
        if not os.path.exists(mark):
            text = lease.REPLICA_TEXT if replica else lease.STORE_TEXT
            durable.replace(mark, text, mode=0o644, owner=owner)

    def become_store(self) -> None:
        """The folder was a replica, and is the store itself from now on."""
        mark = os.path.join(self.folder, FOLDER_MARK)
        durable.replace(mark, lease.STORE_TEXT, mode=0o644)

    def is_ready(self) -> bool:
        """Whether this is a store, and not an empty mount point."""
        return os.path.isfile(os.path.join(self.folder, FOLDER_MARK))

    def lookup(self, user: str) -> PublicKey | None:
        """The user's public key, or None if the user is certainly not enrolled."""
        name = self._names.get(user)
        if name is None:
            if len(self._names) >= _CACHE_ENTRIES:
                self._names.clear()
            name = self._names[user] = file_name(user)
        path = self._key_path(name)
        try:
            found = os.stat(path)
        except FileNotFoundError:
            self._must_be_not_enrolled(normalise(user))
            return None
        except OSError as exc:
            raise durable.error_of(exc, f"cannot read the public key of {user}") from None
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        cached = self._cache.get(name)
        if cached is not None and cached[0] == stamp:
            return cached[1]
        key = self._read(path, normalise(user))
        if len(self._cache) >= _CACHE_ENTRIES:
            self._cache.clear()
        self._cache[name] = (stamp, key)
        return key

    def publish(self, user: str, key: PublicKey) -> None:
        """Enroll the user, or give an enrolled user a new public key."""
        user = normalise(user)
        name = file_name(user)
        mark = self._mark_path(name)
        is_new = not os.path.exists(mark)
        try:
            files = {self._key_path(name): encode(user, key)}
            if is_new or os.path.getsize(mark):
                files = {mark: b"", **files}
            durable.replace_together(files, mode=0o644)
        except TemporaryError:
            # With a mark but no key, mail for a user who is not enrolled would be deferred.
            if is_new and not os.path.lexists(self._key_path(name)):
                durable.remove(mark)
            raise

    def withdraw(self, user: str) -> None:
        """Remove key and mark: the user is no longer enrolled."""
        name = file_name(user)
        durable.remove(self._key_path(name))
        durable.remove(self._mark_path(name))
        self._cache.pop(name, None)

    def suspend(self, user: str) -> None:
        """Remove the key but not the mark: mail is deferred until publish() or withdraw()."""
        name = file_name(user)
        durable.replace(self._mark_path(name), LEAVING, mode=0o644, alone=True)
        durable.remove(self._key_path(name))

    def unaware(self, user: str, *, of_key: bool) -> list[str]:
        """Nobody: all hosts read this folder."""
        return []

    def sweep(self, user: str) -> list[str]:
        """Remove the user's temporary files after a power failure; their names."""
        name = file_name(user)
        paths = (self._key_path(name), self._mark_path(name))
        return [os.path.basename(path) + durable.LEFT_OVER for path in paths if durable.sweep(path)]

    def left_over(self) -> list[str]:
        """Users with temporary files after a power failure, as far as the names show them."""
        found = set()
        for folder, end in ((self.folder, ".json"), (self._enrolled_folder, "")):
            with durable.reporting(f"cannot list {folder}"):
                entries = os.listdir(folder)
            end += durable.LEFT_OVER
            found |= {
                user_of_file(entry.removesuffix(end)) for entry in entries if entry.endswith(end)
            }
        return sorted(user for user in found if user is not None)

    def is_suspended(self, user: str) -> bool:
        """Whether suspend() was the last change."""
        try:
            return os.path.getsize(self._mark_path(file_name(user))) > 0
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise durable.error_of(exc, f"cannot tell whether {user} is enrolled") from None

    def is_marked(self, user: str) -> bool:
        """Whether the user has a mark, with or without a key file."""
        try:
            os.stat(self._mark_path(file_name(user)))
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise durable.error_of(exc, f"cannot tell whether {user} is enrolled") from None
        return True

    def has_file(self, user: str) -> bool:
        """Whether there is a key file, in whatever state."""
        return os.path.lexists(self._key_path(file_name(user)))

    def strangers(self, known: Iterable[str]) -> list[str]:
        """File names of users who have a mark or a key and are not among the known users."""
        names = {file_name(user) for user in known}
        found: set[str] = set()
        for folder, end in ((self.folder, ".json"), (self._enrolled_folder, "")):
            with durable.reporting(f"cannot list {folder}"):
                entries = os.listdir(folder)
            found |= {entry.removesuffix(end) for entry in entries if entry.endswith(end)}
        return sorted(n for n in found - names if not n.endswith(durable.LEFT_OVER))

    def take_key_away(self, name: str) -> bool:
        """Make lookup() raise TemporaryError for users with this file name.

        Returns False if it does already.
        """
        if not os.path.lexists(self._key_path(name)) and os.path.lexists(self._mark_path(name)):
            return False
        durable.replace(self._mark_path(name), LEAVING, mode=0o644, alone=True)
        durable.remove(self._key_path(name))
        return True

    def users(self) -> list[str]:
        """See listing.users().  Needs read permission on the folder."""
        return listing.users(self.folder)

    @property
    def _enrolled_folder(self) -> str:
        return os.path.join(self.folder, "enrolled")

    def _key_path(self, name: str) -> str:
        return os.path.join(self.folder, f"{name}.json")

    def _mark_path(self, name: str) -> str:
        return os.path.join(self._enrolled_folder, name)

    def _must_be_not_enrolled(self, user: str) -> None:
        """With no key file there: raise unless the user is certainly not enrolled.

        In this order: lease, mark, clock (lease.py).
        """
        until = self._lease.until()
        if self.is_marked(user):
            raise TemporaryError(
                f"the public key of {user} is missing", hint=f"run `mailseal repair {user}`"
            )
        try:
            ok = stat.S_ISDIR(os.stat(self._enrolled_folder).st_mode)
        except OSError:
            ok = False
        if not ok:
            raise TemporaryError(f"{self.folder} is not a folder of public keys")
        if self._lease.expired(until):
            raise TemporaryError(
                f"it is not certain that {user} is not enrolled: the replica of the public keys is "
                "not current",
                hint=lease.HINT,
            )

    def _read(self, path: str, user: str) -> PublicKey:
        return decode(self._bytes(path), user)

    def _bytes(self, path: str) -> bytes:
        with durable.reporting(f"cannot read {path}"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise Damaged(f"{path} is not a file")
                return os.read(fd, MAX_FILE)
            finally:
                os.close(fd)


def decode(data: bytes, user: str) -> PublicKey:
    """The content of a key file that should be this user's.  Raises Damaged, NewerFormat."""
    from mailseal.crypto.eckeys import PublicKey

    try:
        fields = _fields(data)
    except Damaged as exc:
        raise Damaged(f"the public key of {user} is damaged: {exc}") from None
    except NewerFormat as exc:
        raise NewerFormat(f"the public key of {user} {exc}", hint=exc.hint) from None
    if fields["user"] != user:
        raise Damaged(f"the public key file of {user} belongs to another user")
    try:
        key = PublicKey.from_spki(bytes.fromhex(fields["spki"]))
    except (Damaged, ValueError):
        raise Damaged(f"the public key of {user} is damaged") from None
    if key.key_id.hex() != fields["key_id"] or encode(user, key) != data:
        raise Damaged(f"the public key of {user} is damaged")
    return key


def encode(user: str, key: PublicKey) -> bytes:
    """The content of a key file: json.dumps() with indent=1, which takes six times as long."""
    return (
        f'{{\n "format": "{FORMAT}",\n "version": {VERSION},\n "user": {json.dumps(user)},\n'
        f' "key_id": "{key.key_id.hex()}",\n "spki": "{key.spki.hex()}"\n}}\n'
    ).encode()


def _fields(data: bytes) -> dict[str, Any]:
    """Parse strictly.  The caller compares the bytes with those that it would write."""
    content = record.read(data, FORMAT, VERSION, _FIELDS)
    if not all(isinstance(content[name], str) for name in ("user", "key_id", "spki")):
        raise Damaged("wrong format or fields")
    return content
