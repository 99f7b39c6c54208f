# SPDX-License-Identifier: MIT
"""The blocks of a full-text index in which each search begins are read ahead first."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailseal.index import ahead, glass
from mailseal.index.folders import Folders
from tests.unit.glass_files import BLOCK, branch, table, version_file
from tests.unit.test_read_ahead import (
    CACHE,
    LIMIT,
    NAME,
    fill,
    folders,
    resident_pages,
    unlocked,
    volume,
)

__all__ = ["folders", "volume"]

ROOTS = {"postlist": (40, 2), "docdata": (0, 0), "termlist": (300, 1)}
WORDS = table(400, {40: branch(2, [7, 90]), 7: branch(1, [60, 50, 61]), 90: branch(1, [55, 54])})
MAILS = table(400, {300: branch(1, [1, 2, 3])})
FLATCURVE = ".INBOX/fts-flatcurve/index.1"
XAPIAN = "xapian-indexes/db_1"


def database(folder: str) -> dict[str, int | bytes]:
    return {
        f"{folder}/iamglass": version_file(ROOTS),
        f"{folder}/postlist.glass": WORDS,
        f"{folder}/docdata.glass": bytes(BLOCK),
        f"{folder}/termlist.glass": MAILS,
    }


def blocks_read(folders: Folders, path: str) -> set[int]:
    """The blocks of a file that are in the kernel's memory."""
    pages = resident_pages(os.path.join(folders.path(NAME), path))
    return {page * mmap.PAGESIZE // BLOCK for page in pages}


def test_the_upper_blocks(folders: Folders) -> None:
    """The roots, the branches of the words, and the first leaf."""
    fill(folders, database(FLATCURVE))
    with unlocked(folders):
        first = ahead.plan(folders.root, NAME, LIMIT)[0]
        assert "/".join(first.path[1:]) == f"{FLATCURVE}/iamglass"
        ahead.read(folders.root, first)
        words = blocks_read(folders, f"{FLATCURVE}/postlist.glass")
        assert words >= {40, 7, 90, 60}
        assert len(words) < 100, "not the whole file"
        assert blocks_read(folders, f"{FLATCURVE}/termlist.glass") >= {300}
        assert blocks_read(folders, f"{FLATCURVE}/docdata.glass") == {0}


def test_the_order(folders: Folders) -> None:
    """Of fts-xapian, the index that was written last belongs to INBOX.  Only words are read."""
    files = {
        **database(XAPIAN),
        **database("xapian-indexes/db_2"),
        ".Sent/dovecot.index": bytes(10),
        CACHE: bytes(2 << 20),
    }
    fill(folders, files)
    with unlocked(folders):
        for name, when in ((XAPIAN, 2_000_000_000), ("xapian-indexes/db_2", 1_000_000_000)):
            for one in database(name):
                os.utime(os.path.join(folders.path(NAME), one), (when, when))
        found = ahead.plan(folders.root, NAME, LIMIT)
        names = list(dict.fromkeys("/".join(one.path[1:]) for one in found))
        assert names[:3] == [f"{XAPIAN}/iamglass", f"{XAPIAN}/docdata.glass", CACHE]
        assert names[-2:] == [f"{XAPIAN}/postlist.glass", "xapian-indexes/db_2/postlist.glass"]
        assert not any("termlist" in name for name in names)


LOOP = table(50, {1: branch(9, [1] * 300)})
WIDE = table(400, {1: branch(2, [*range(399, 99, -1), 4_000_000_000])})


@pytest.mark.parametrize("words", [LOOP, WIDE])
def test_what_is_read_has_a_limit(folders: Folders, words: bytes) -> None:
    """The owner of the mail can write anything there: a loop, and numbers beyond the end."""
    fill(
        folders,
        {
            f"{XAPIAN}/iamglass": version_file({"postlist": (1, 9), "position": (2, 1)}),
            f"{XAPIAN}/postlist.glass": words,
        },
    )
    with unlocked(folders):
        path = (NAME, *XAPIAN.split("/"), "iamglass")
        ahead.read(folders.root, ahead.Piece(path, 0, 100))
        found = blocks_read(folders, f"{XAPIAN}/postlist.glass")
        assert 1 in found
        assert len(found) < 2 * ahead._BLOCKS


def test_a_link_in_the_place_of_a_table(folders: Folders, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(WORDS)
    fill(folders, {f"{XAPIAN}/iamglass": version_file(ROOTS)})
    with unlocked(folders):
        link = os.path.join(folders.path(NAME), XAPIAN, "postlist.glass")
        os.symlink(secret, link)
        os.mkfifo(os.path.join(folders.path(NAME), XAPIAN, "termlist.glass"))
        path = (NAME, *XAPIAN.split("/"))
        with pytest.raises(OSError, match="symbolic links"):
            ahead._open(folders.root, (*path, "postlist.glass"))
        ahead.read(folders.root, ahead.Piece((*path, "iamglass"), 0, 100))


def test_a_version_file() -> None:
    assert glass.roots(version_file(ROOTS, 2**40)) == [
        glass.Root("postlist", 40, 2, BLOCK),
        glass.Root("docdata", 0, 0, BLOCK),
        glass.Root("termlist", 300, 1, BLOCK),
    ]
    assert glass.roots(version_file(ROOTS)[:60]) == []
    assert glass.roots(b"") == glass.roots(b"\x0f\x0dXapian Brass" + bytes(100)) == []
    assert glass.below(branch(1, [5, 2**32 - 1])) == [5, 2**32 - 1]
    assert glass.below(bytes(BLOCK)) == glass.below(b"") == []


@pytest.mark.parametrize("root", [(2**32, 1), (2**70, 0), (5, 10), (5, 2**50)])
def test_a_root_that_cannot_be(folders: Folders, root: tuple[int, int]) -> None:
    """It would be an error, or take for ever, in a process that reads for all users."""
    assert glass.roots(version_file({"postlist": root})) == []
    fill(folders, {**database(XAPIAN), f"{XAPIAN}/iamglass": version_file({"postlist": root})})
    with unlocked(folders):
        path = (NAME, *XAPIAN.split("/"), "iamglass")
        ahead.read(folders.root, ahead.Piece(path, 0, 100))
        assert not blocks_read(folders, f"{XAPIAN}/postlist.glass")


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_damage_is_never_an_error(version: bytes, block: bytes) -> None:
    glass.roots(b"\x0f\x0dXapian Glass" + version)
    glass.below(bytes(4) + b"\1" + block)
