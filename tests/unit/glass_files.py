# SPDX-License-Identifier: MIT
"""Makes the files of a Xapian database, as lib/mailseal/index/glass.py describes them."""

from __future__ import annotations

import struct

from mailseal.index.glass import TABLES

BLOCK = 8192


def number(value: int) -> bytes:
    """7 bits in each byte, the lowest first."""
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def version_file(roots: dict[str, tuple[int, int]], revision: int = 300) -> bytes:
    """`roots`: block and level of each table; the others are empty."""
    data = b"\x0f\x0dXapian Glass" + b"\x04\x6e" + bytes(16) + number(revision)
    for table in TABLES:
        block, level = roots.get(table, (0, 0))
        flags = 2 if table in roots else 3
        for one in (block, level << 2 | flags, 1000, BLOCK >> 11, 18, 3):
            data += number(one)
        data += b"abc"
    return data + number(20_000) + number(0)


def branch(level: int, below: list[int]) -> bytes:
    """A block with the numbers of the blocks below it."""
    block = bytearray(BLOCK)
    block[4] = level
    struct.pack_into(">H", block, 9, 11 + 2 * len(below))
    for place, one in enumerate(below):
        offset = BLOCK - 10 * (place + 1)
        struct.pack_into(">H", block, 11 + 2 * place, offset)
        struct.pack_into(">I", block, offset, one)
    return bytes(block)


def table(blocks: int, branches: dict[int, bytes]) -> bytes:
    """A file; all blocks but these are leaves."""
    return b"".join(branches.get(place, bytes(BLOCK)) for place in range(blocks))
