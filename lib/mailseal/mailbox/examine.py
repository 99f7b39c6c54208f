# SPDX-License-Identifier: MIT
"""One stored mail: is it sealed, to whom, and is it whole?

Without a private key: the header, the key it names, and the sizes.  With one: the tag too,
which proves every byte of the mail, and both sizes in its name.  Dovecot itself does not
check the tag of a mail whose name has W=, and believes the sizes in the name.

WHAT A NAME'S SIZES PROVE
    S= is the size of the mail, W= the size with CR LF at the end of each line.  Dovecot
    serves no more than W= bytes: whoever makes it smaller cuts the mail, and no key knows
    of it.  A mail that Dovecot has compressed before it was sealed is smaller than its S=;
    without a key that looks like a mail that was cut.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat

from mailseal import durable
from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import Damaged

CLEAR = "clear"
"""Not sealed: who reads the disk reads the mail."""
FOREIGN = "foreign"
"""Sealed to a key that is none of the user's pairs: the user cannot read it."""
DAMAGED = "damaged"
"""The header is not what was written, or the mail is cut short: the user cannot read it."""
SIZE = "size"
"""The sizes in its name are not those of the mail: Dovecot may cut it, or not show it."""
CHANGED = "changed"
"""The tag does not match: somebody, or a failing disk, has changed the mail."""
ODD = "odd"
"""A link, a folder or the like, where only mails should be."""

MARK_SIZE = 16
"""Bytes of a mark: as many of the wrapped secret, which is as good as random."""

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
    """What is right for this user."""

    key_ids: frozenset[bytes]
    """The ids of all key pairs in the user's keyring, 32 bytes each."""
    keys: tuple[PrivateKey, ...] = ()
    """To check the tags with; none: they are not checked."""
    compressed: bool = False
    """Dovecot compresses mail: without a key, a mail smaller than its S= is no finding."""


@dataclasses.dataclass(slots=True)
class Seen:
    """One mail as found.  `problem` is one of the kinds above and a sentence, or None."""

    size: int
    links: int
    inode: tuple[int, int]
    mark: bytes = b""
    """What no other sealed message has; empty if the header cannot be read."""
    problem: tuple[str, str] | None = None


def look(path: str, expected: Expected) -> Seen:
    """Read one mail.  FileNotFoundError passes through; TemporaryError: unreadable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as exc:
        if os.path.islink(path):
            return Seen(0, 1, (0, 0), problem=(ODD, "is a link; it is not looked into"))
        raise durable.error_of(exc, "cannot be read") from None
    try:
        with durable.reporting("cannot be read"):
            found = os.fstat(fd)
            seen = Seen(found.st_size, found.st_nlink, (found.st_dev, found.st_ino))
            if not stat.S_ISREG(found.st_mode):
                seen.problem = (ODD, "is not a file")
            elif found.st_size:  # Dovecot keeps an empty message as an empty file
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
            raise Damaged("a sealed mail is cut short")
        seen.mark = info.records[0].wrapped[:MARK_SIZE]
        if expected.key_ids.isdisjoint(info.key_ids):
            return FOREIGN, f"is sealed to a key that is not the user's: {_short(info.key_ids)}"
        mine = [record for record in info.records if record.key_id in expected.key_ids]
        if any(record.key_type != dcrypt.KEY_TYPE_EC for record in mine):
            raise Damaged("a sealed mail with a damaged key record")
        if expected.keys:
            return _opened(fd, name, expected)
    except Damaged as exc:
        return DAMAGED, str(exc)
    return _sizes_without_key(name, held, compressed=expected.compressed)


def _short(key_ids: tuple[bytes, ...]) -> str:
    return ", ".join(key_id.hex()[:16] for key_id in key_ids)


def _opened(fd: int, name: str, expected: Expected) -> tuple[str, str] | None:
    """With the keys: the tag, and then the sizes."""
    start = last = b""
    size = lines = 0
    try:
        with open(fd, "rb", closefd=False) as source:
            for piece in dcrypt.unproven(source, expected.keys):
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
    """What can be told of the sizes by the length of the file."""
    sizes = {letter: int(number) for letter, number in _SIZES.findall(name)}
    said = sizes.get("S", held)
    if said != held and not (compressed and held < said):
        why = "" if held > said else ", or compressed by Dovecot: only the user's password can tell"
        return SIZE, f"has S={said} in its name, but holds {held} bytes: it was changed{why}"
    if not said <= sizes.get("W", said) <= 2 * said:
        return SIZE, f"has W={sizes['W']} in its name, which cannot be with a size of {said} bytes"
    return None
