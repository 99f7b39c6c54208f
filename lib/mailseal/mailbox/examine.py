# SPDX-License-Identifier: MIT
"""Checks one stored mail: is it sealed, to which key, and is it complete?

Without a private key it checks the header, the key id in it, and the sizes.  With one it also
checks the tag, which authenticates every byte of the mail, and both sizes in the name.  Dovecot
does not check the tag of a mail whose name has W=, and trusts the sizes in the name.

SIZES IN THE NAME
    S= is the size of the mail, W= the size with CR LF at the end of each line.  Dovecot
    serves at most W= bytes: so a smaller W= truncates the mail, although its tag is still
    right.  A mail that Dovecot has compressed before it was sealed is smaller than its S=, or a
    little larger if it is very short; without a key it cannot be distinguished from a truncated
    mail.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Callable, Sequence

from mailseal import durable
from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import Damaged

CLEAR = "clear"
"""Not sealed: anybody who can read the disk can read the mail."""
FOREIGN = "foreign"
"""Sealed to a key pair that is not in the user's keyring: the user cannot read it."""
DAMAGED = "damaged"
"""The header is damaged, or the mail is truncated: the user cannot read it."""
SIZE = "size"
"""The sizes in the name are wrong: Dovecot may show only a part of the mail, or nothing."""
CHANGED = "changed"
"""The tag is wrong: somebody, or a faulty disk, has changed the mail."""
ODD = "odd"
"""A link, a folder or another file that is not a mail."""

MARK_SIZE = 16
"""Size of a mark in bytes: the first bytes of the wrapped secret, which look random."""

_SIZES = re.compile(r",(S|W)=(\d{1,18})(?=[,:]|$)")
_COMPRESSED = (
    b"\x1f\x8b",  # gzip
    b"BZh",
    b"\x28\xb5\x2f\xfd",  # zstd
    b"\xfd7zXZ\0",
    b"Dovecot-LZ4",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """What a mail of this user is compared with."""

    key_ids: frozenset[bytes]
    """The ids of all key pairs in the user's keyring, 32 bytes each."""
    keys: tuple[PrivateKey, ...] = ()
    """Keys to check the tags; if empty, the tags are not checked."""
    compressed: bool = False
    """Dovecot compresses mail: without a key, most sizes other than S= are not a finding."""
    elsewhere: Callable[[int, str], tuple[str, str] | None] | None = None
    """Checks the tag of an open file with this name, where the keys are: another process."""


@dataclasses.dataclass(slots=True)
class Seen:
    """The result for one mail.  `problem` is one of the kinds above and a text, or None."""

    size: int
    links: int
    inode: tuple[int, int]
    mark: bytes = b""
    """Identifies the sealed mail; empty if the header cannot be read."""
    problem: tuple[str, str] | None = None


def look(path: str, expected: Expected) -> Seen:
    """Check one mail.  FileNotFoundError is passed on; TemporaryError: unreadable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as exc:
        if os.path.islink(path):
            return Seen(0, 1, (0, 0), problem=(ODD, "is a link; it is not followed"))
        raise durable.error_of(exc, "cannot be read") from None
    try:
        with durable.reporting("cannot be read"):
            found = os.fstat(fd)
            seen = Seen(found.st_size, found.st_nlink, (found.st_dev, found.st_ino))
            if not stat.S_ISREG(found.st_mode):
                seen.problem = (ODD, "is not a file")
            elif found.st_size:  # Dovecot stores an empty mail as an empty file
                seen.problem = _problem(fd, os.path.basename(path), expected, seen)
            return seen
    finally:
        os.close(fd)


def _problem(fd: int, name: str, expected: Expected, seen: Seen) -> tuple[str, str] | None:
    start = os.pread(fd, dcrypt.MAX_HEADER, 0)
    if not dcrypt.is_sealed(start):
        return CLEAR, "is stored in clear"
    try:
        info = dcrypt.inspect(start)
        held = seen.size - info.header_size - dcrypt.TAG_SIZE
        if held < 0:
            raise Damaged("a sealed mail is truncated")
        seen.mark = info.records[0].wrapped[:MARK_SIZE]
        if expected.key_ids.isdisjoint(info.key_ids):
            return FOREIGN, f"is sealed to a key that is not in the keyring: {_short(info.key_ids)}"
        mine = [record for record in info.records if record.key_id in expected.key_ids]
        if any(record.key_type != dcrypt.KEY_TYPE_EC for record in mine):
            raise Damaged("a sealed mail with a damaged key record")
        if expected.elsewhere is not None:
            return expected.elsewhere(fd, name)
        if expected.keys:
            return check_tag(fd, name, expected.keys)
    except Damaged as exc:
        return DAMAGED, str(exc)
    return _sizes_without_key(name, held, compressed=expected.compressed)


def _short(key_ids: tuple[bytes, ...]) -> str:
    return ", ".join(key_id.hex()[:16] for key_id in key_ids)


def check_tag(fd: int, name: str, keys: Sequence[PrivateKey]) -> tuple[str, str] | None:
    """Check the tag of an open file with the keys, and then the sizes."""
    start = last = b""
    size = lines = 0
    try:
        with open(fd, "rb", buffering=4096, closefd=False) as source:
            for piece in dcrypt.Opening(keys).unproven(source):
                start = start or piece[:16]
                size += len(piece)
                lines += piece.count(b"\n") - piece.count(b"\r\n")
                lines -= last == b"\r" and piece.startswith(b"\n")
                last = piece[-1:]
    except Damaged as exc:
        return CHANGED, str(exc)
    if start.startswith(_COMPRESSED):
        return None
    for letter, number in _SIZES.findall(name):
        right = size if letter == "S" else size + lines
        if int(number) != right:
            return SIZE, f"has {letter}={number} in its name, but it should be {right}"
    return None


def _sizes_without_key(name: str, held: int, *, compressed: bool) -> tuple[str, str] | None:
    """Check the sizes with the length of the file."""
    sizes = {letter: int(number) for letter, number in _SIZES.findall(name)}
    said = sizes.get("S", held)
    # Compressed, nothing is larger than this: bzip2's limit; the other formats need less.
    possible = held <= said + said // 100 + 600
    if said != held and not (compressed and possible):
        why = ", or compressed by Dovecot; check it with the user's password" if possible else ""
        return SIZE, f"has S={said} in its name, but contains {held} bytes: it was changed{why}"
    if not said <= sizes.get("W", said) <= 2 * said:
        return (
            SIZE,
            f"has W={sizes['W']} in its name, which is impossible for a size of {said} bytes",
        )
    return None
