# SPDX-License-Identifier: MIT
"""Where a search begins in a full-text index: the upper blocks of a Xapian database.

Both fts-xapian and flatcurve store Xapian's format "glass": one file for each table, a B-tree of
blocks.  A search reads the version file, the root of each table, in the list of words the first
leaf (which has the lengths of mails), and one leaf for each word.

FORMAT (Xapian 1.4)
    iamglass    16 bytes magic and version, 16 bytes UUID, the revision, then for each of TABLES:
                number of the root block, level * 4 + flags (1: the table is empty), entries,
                block size / 2048, a limit, and a string with its length before it.
                Numbers have 7 bits in each byte, the lowest first; bit 7: there are more.
    block       byte 4: the level, 0 for a leaf; bytes 9 and 10: the end of a list of offsets, two
                bytes each, that begins at byte 11.  In a branch, each leads to four bytes with
                the number of a block below.

FAILURES
    None: of anything unknown or damaged, nothing is returned.
"""

from __future__ import annotations

import dataclasses
import struct

VERSION_FILE = "iamglass"
VERSION_SIZE = 4096
"""Bytes; the file has about 100."""

WORDS = "postlist"
TABLES = (WORDS, "docdata", "termlist", "position", "spelling", "synonym")
"""In the order of the version file.  The file of a table is NAME.glass."""

_MAGIC = b"\x0f\x0dXapian Glass"
_BLOCK_SIZES = (2048, 4096, 8192, 16384, 32768, 65536)
_BLOCKS, _LEVELS = 1 << 32, 10
_EMPTY = 1


@dataclasses.dataclass(frozen=True)
class Root:
    """The root of a table: the number of its block, and its level; sizes in bytes."""

    table: str
    block: int
    level: int
    block_size: int


def roots(version_file: bytes) -> list[Root]:
    """The roots of all tables that are not empty."""
    if not version_file.startswith(_MAGIC):
        return []
    found = []
    try:
        _, at = _number(version_file, 32)
        for table in TABLES:
            block, at = _number(version_file, at)
            level, at = _number(version_file, at)
            _, at = _number(version_file, at)
            size, at = _number(version_file, at)
            _, at = _number(version_file, at)
            length, at = _number(version_file, at)
            at += length
            if size * 2048 not in _BLOCK_SIZES or block >= _BLOCKS or level >> 2 >= _LEVELS:
                return []
            if not level & _EMPTY:
                found.append(Root(table, block, level >> 2, size * 2048))
    except IndexError:
        return []
    return found


def below(block: bytes) -> list[int]:
    """The numbers of the blocks below a branch, in the order of their words; none for a leaf."""
    if len(block) < 11 or not 0 < block[4] < _LEVELS:
        return []
    (end,) = struct.unpack_from(">H", block, 9)
    try:
        offsets = [struct.unpack_from(">H", block, at)[0] for at in range(11, end, 2)]
        return [struct.unpack_from(">I", block, offset)[0] for offset in offsets]
    except struct.error:
        return []


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The number at this offset, and the offset after it.  Raises IndexError at the end."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | data[at] << shift, at + 1
