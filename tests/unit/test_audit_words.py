# SPDX-License-Identifier: MIT
"""The audit's search finds its words in every form, and in nothing else."""

from __future__ import annotations

import base64
import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable

import pytest

from tests.audit.mails import letter, saved
from tests.audit.result import place_in_queue, place_of
from tests.audit.words import PARTS, Owner, find, owners

OWNER, OTHER = owners(["alice", "bob"])
MAIL = letter(OWNER, "alice@example.org", number=2) + saved(OWNER)


def test_every_part_of_a_mail_is_found_and_named() -> None:
    hits = find(MAIL, [OWNER, OTHER])
    assert {hit.part for hit in hits} == set(PARTS)
    assert {hit.owner for hit in hits} == {"alice"}


def test_nothing_is_found_in_noise() -> None:
    assert find(os.urandom(4 << 20) + letter(OTHER, "bob@example.org"), [OWNER]) == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("before", range(4))
def test_base64_at_every_offset(encoding: str, before: int) -> None:
    text = ("-" * before + OWNER.word("body base64") + " and more").encode(encoding)
    (hit, *_) = find(b"\x00" * 50 + base64.b64encode(text), [OWNER])
    assert hit.part == "body base64"
    assert hit.form.startswith("base64")


def test_capital_letters_utf16_and_fragments() -> None:
    word = OWNER.word("subject")
    assert find(word.upper().encode(), [OWNER])[0].part == "subject"
    assert find(word.encode("utf-16-be"), [OWNER])[0] == (1, "alice", "subject", "utf-16")
    assert [hit.part for hit in find(word[:8].encode(), [OWNER])] == ["?"]
    assert [hit.part for hit in find(word[-8:].encode(), [OWNER])] == ["?"]
    assert len(find(word.encode(), [OWNER])) == 1


@pytest.mark.parametrize("line_end", [b"=\r\n", b"=\n", b"\r\n", b"\n"])
def test_a_line_end_in_the_middle_hides_nothing(line_end: bytes) -> None:
    word = OWNER.word("Comments").encode()
    broken = word[:4] + line_end + word[4:14] + line_end + word[14:]
    assert [hit.part for hit in find(b"x" * 5000 + broken, [OWNER])] == ["Comments"]
    code = base64.b64encode(word)
    assert find(code[:6] + line_end + code[6:], [OWNER])


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, bz2.compress, lzma.compress])
def test_compressed_data(pack: Callable[[bytes], bytes]) -> None:
    data = os.urandom(5000) + pack(MAIL * 20)
    for end in (len(data), 5000 + (len(data) - 5000) * 2 // 3):
        hits = find(data[:end], [OWNER])
        if pack in (bz2.compress, lzma.compress) and end < len(data):
            continue  # their blocks are larger than this mail: a part of one cannot be read
        assert {hit.offset for hit in hits} == {5000}
        assert all(hit.form.endswith("packed") for hit in hits)


def test_every_hit_has_its_row() -> None:
    mail = "lab/mail/example.org/alice/Maildir"
    rows = {
        f"{mail}/cur/1.M2P3.host,S=10,W=11:2,S": "store",
        f"{mail}/tmp/1.M2P3.host": "store",
        f"{mail}/dovecot.index.log": "index",
        f"{mail}/.Sent/dovecot.index.cache": "cache",
        f"{mail}/xapian-indexes/db_1/termlist.glass": "full-text index",
        f"{mail}/.INBOX/fts-flatcurve/current.1/postlist.glass": "full-text index",
        "lab/mail/example.org/alice/.dovecot.lda-dupes": "Sieve's files",
        "lab/tmp/dovecot.imap.1": "temporary files",
        "lab/state/public/alice.json": "other files",
        "<free blocks>": "free blocks",
        "<journal>": "journal",
    }
    assert {path: place_of(path) for path in rows} == rows
    assert place_in_queue("queue/deferred/A/ABC") == "queue"
    assert place_in_queue("log/dovecot.log") == "logs on the disk"


def test_owner_is_random() -> None:
    assert owners(["alice"]) != [OWNER]
    assert isinstance(OWNER, Owner)
