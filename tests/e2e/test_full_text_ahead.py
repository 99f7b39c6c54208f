# SPDX-License-Identifier: MIT
"""After a login, the blocks in which a full-text search begins are in memory; real Dovecot."""

from __future__ import annotations

import os
import random

import pytest

from mailseal.index import glass
from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from tests.lab import ALICE, Lab
from tests.lab.dovecot import installed_version
from tests.lab.full_text import configuration, missing, options
from tests.lab.place import MAIL_UID
from tests.lab.process import wait_until
from tests.lab.smtp import send
from tests.unit.test_read_ahead import resident_pages

WORDS = 3000
"""So many that the index has branches.  Short ones: fts-xapian stores their parts too."""


def test_the_upper_blocks_are_read_ahead(volume: str) -> None:
    """`index.read_ahead` is too small here for anything else of the full-text index."""
    if package := missing(installed_version()):
        pytest.skip(f"{package} is not installed, for Dovecot {installed_version()[:3]}")
    lab = Lab({ALICE: "password"})
    extra = {"index.folder": f"{volume}/words", "index.lock_after": "1s", "index.read_ahead": "1K"}
    # Without it, only a search makes the full-text index, and a login does not open it.
    nobody = {"dovecot.indexer_socket": lab.place.path("no-indexer")}
    lab.write_config({**options(lab.dovecot), **nobody, **extra})
    lab.dovecot.write_config(configuration(lab.dovecot))
    with lab:
        folders = Folders(f"{volume}/words", MAIL_UID)
        name = folder_name(ALICE)

        def state() -> State | None:
            return found[1] if (found := folders.state(name)) else None

        some = random.Random(1)
        words = "\r\n".join(f"{some.randrange(1 << 20):05x}" for _ in range(WORDS))
        send(lab.smtp, "eve@example.net", [ALICE], f"Subject: words\r\n\r\n{words}\r\n".encode())
        lab.wait_delivered()
        with lab.login() as imap:
            imap.select()
            assert b"* SEARCH 1" in imap.command(b'SEARCH BODY "%s"' % words[:5].encode())
            upper = _upper_blocks(folders.path(name))
        wait_until(lambda: state() is State.ABSENT, "the folder is locked")
        with lab.login():
            wait_until(lambda: _in_memory(upper), "the upper blocks are in memory")
        wait_until(lambda: state() is State.ABSENT, "the folder is locked")


def _upper_blocks(folder: str) -> dict[str, set[int]]:
    """The pages of the roots, and of the branches of the words, in all tables of a real index."""
    found: dict[str, set[int]] = {}
    for where, _, names in os.walk(folder):
        if glass.VERSION_FILE in names:
            with open(os.path.join(where, glass.VERSION_FILE), "rb") as stream:
                tables = glass.roots(stream.read())
            for table in tables:
                path = os.path.join(where, f"{table.table}.glass")
                found[path] = _pages(path, table)
    (words,) = (len(pages) for path, pages in found.items() if path.endswith("/postlist.glass"))
    assert words > 2, "the index of the words has branches"
    return found


def _in_memory(upper: dict[str, set[int]]) -> bool:
    return all(pages.issubset(resident_pages(path)) for path, pages in upper.items())


def _pages(path: str, table: glass.Root) -> set[int]:
    pages: set[int] = set()
    wanted, level = [table.block], table.level
    with open(path, "rb") as stream:
        while wanted:
            below = []
            for number in wanted:
                stream.seek(number * table.block_size)
                block = stream.read(table.block_size)
                assert block[4] == level, "the format is as glass.py describes it"
                first = number * table.block_size // 4096
                pages.update(range(first, first + table.block_size // 4096))
                below += glass.below(block)
            level -= 1
            # Of the words, one leaf; of the others, only the root is read ahead.
            words = table.table == glass.WORDS
            wanted = below[:1] if words and level == 0 else below if words else []
    return pages
