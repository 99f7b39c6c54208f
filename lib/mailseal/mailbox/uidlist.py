# SPDX-License-Identifier: MIT
"""dovecot-uidlist: which IMAP UID a mail of a Maildir folder has.

FORMAT (Dovecot's maildir-uidlist.c; text lines, each ends with LF)
    version 3   3 V<uidvalidity> N<next uid> [G<guid>] [<letter><value> …]
                <uid> [<letter><value> …] :<file name>
    version 1   1 <uidvalidity> <next uid>
                <uid> <file name>
    UIDs are in rising order, from 1 to 4,294,967,294.  A file name is written without the
    colon and the flags after it.  Where Dovecot could not do so, it has written the whole name:
    only the part before the colon is used here.

CONTRACT
    Only reads, without Dovecot's lock: Dovecot writes a new file and renames it, or
    appends lines.  So the last line may be incomplete; then it is ignored.

FAILURES
    FileNotFoundError is passed on: Dovecot has not opened this folder yet.
    Damaged: content that Dovecot would refuse too.  TemporaryError: unreadable.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from typing import BinaryIO

from mailseal import durable
from mailseal.errors import Damaged

NAME = "dovecot-uidlist"

_MAX_UID = 0xFFFFFFFE
_MAX_LINE = 1 << 14


def base_of(name: str) -> str:
    """The part of a mail's file name that does not change with its flags."""
    return name.partition(":")[0]


def uids(path: str, bases: Container[str]) -> dict[str, int]:
    """The UIDs of the mails with these base names, if they have one already."""
    return {base: uid for uid, base in entries(path) if base in bases}


def entries(path: str) -> Iterator[tuple[int, str]]:
    """UID and base name of each mail in the list, in rising order of the UIDs."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise durable.error_of(exc, f"cannot read {path}") from None
    with open(fd, "rb") as stream, durable.reporting(f"cannot read {path}"):
        version = _header(stream, path)
        before = 0
        for number, line in enumerate(_lines(stream, path), 2):
            uid, name = _entry(line, version, f"{path}, line {number}")
            if uid <= before:
                raise Damaged(f"{path}, line {number}: the UIDs are not in rising order")
            before = uid
            yield uid, base_of(os.fsdecode(name))


def _lines(stream: BinaryIO, path: str) -> Iterator[bytes]:
    """Complete lines, without the LF."""
    while line := stream.readline(_MAX_LINE):
        if not line.endswith(b"\n"):
            if len(line) == _MAX_LINE:
                raise Damaged(f"{path} has a line without an end")
            return
        yield line[:-1]


def _header(stream: BinaryIO, path: str) -> int:
    line = next(_lines(stream, path), b"")
    version, _, rest = line.partition(b" ")
    words = rest.split()
    if version == b"1" and len(words) == 2:
        numbers = words
    elif version == b"3":
        fields = {word[:1]: word[1:] for word in words}
        numbers = [fields.get(b"V", b""), fields.get(b"N", b"")]
    else:
        raise Damaged(f"{path} is not a list of UIDs of version 1 or 3")
    if not all(_number(number) for number in numbers):
        raise Damaged(f"{path} has a damaged first line")
    return int(version)


def _entry(line: bytes, version: int, where: str) -> tuple[int, bytes]:
    first, _, rest = line.partition(b" ")
    uid = _number(first)
    rest = rest.lstrip(b" ")
    while version == 3 and rest and not rest.startswith(b":"):
        rest = rest.partition(b" ")[2].lstrip(b" ")
    name = rest.removeprefix(b":") if version == 3 else rest
    if not uid or not name or b"/" in name or b"\0" in name:
        raise Damaged(f"{where} is damaged")
    return uid, name


def _number(text: bytes) -> int:
    """The number, or 0 if it is not a valid UID."""
    value = int(text) if text.isdigit() and len(text) <= 10 else 0
    return value if value <= _MAX_UID else 0
