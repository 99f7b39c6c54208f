# SPDX-License-Identifier: MIT
"""Nothing is in clear on disk after any action of a user; and the search works."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.demo.letter import SENDER, WORDS, letter, sent_copy
from tests.lab import ALICE, BOB, Imap, Lab, Pop3, Refused
from tests.lab.search import count_files, forms, search_bytes, search_folder
from tests.lab.smtp import send

PASSWORD = "rhubarb-and-custard"
WRONG = "rhubarb-with-pepper"


@pytest.fixture(scope="module")
def lived_in() -> Iterator[Lab]:
    """A lab after typical actions: mail is delivered, read, searched, answered, saved; restarts."""
    with Lab({ALICE: PASSWORD, BOB: PASSWORD}) as lab:
        # In other cases the passwd-file contains passwords in clear; here it is not used.
        os.unlink(lab.dovecot.wanted.users_file)
        send(lab.smtp, SENDER, [ALICE, BOB], letter(ALICE))
        large = letter(ALICE) + b"Frau M\xc3\xbchlenb\xc3\xa4cker and the pomegranate\r\n" * 5000
        send(lab.smtp, SENDER, [ALICE], large)
        lab.wait_delivered()
        with pytest.raises(Refused):
            Imap(lab.imap, ALICE, WRONG)
        with lab.login(ALICE) as imap:
            imap.select()
            imap.command(b"FETCH 1:* (ENVELOPE BODYSTRUCTURE RFC822.SIZE INTERNALDATE)")
            imap.command(b"FETCH 1:* (BODY.PEEK[] BODY.PEEK[HEADER])")
            imap.command(b'SEARCH OR BODY "pomegranate" SUBJECT "harvestreport"')
            imap.command(b"SORT (SUBJECT) UTF-8 ALL")
            imap.command(b"THREAD REFERENCES UTF-8 ALL")
            imap.append("Sent", sent_copy())
            imap.command(b"CREATE Drafts")
            imap.append("Drafts", letter(BOB))
            imap.command(b"COPY 1 Drafts")
            imap.command(b"STORE 1 +FLAGS (\\Seen \\Flagged)")
        with Pop3(lab.pop3, BOB, PASSWORD) as pop3:
            pop3.mail(1)
        lab.restart_agent()
        lab.restart_delivery()
        with lab.login(BOB) as imap:
            imap.bodies()
        yield lab


def test_no_word_of_a_mail_is_on_disk(lived_in: Lab) -> None:
    queue = lived_in.place.path("postfix", "queue")
    assert search_folder(lived_in.dir, WORDS, skip=[queue]) == []
    assert count_files(lived_in.dir, skip=[queue]) > 30


def test_the_search_finds_words_that_are_there(lived_in: Lab) -> None:
    found = {word for word, _ in search_bytes(letter(ALICE), WORDS)}
    assert found == set(WORDS)
    # It is found in Dovecot's index cache, which is therefore on tmpfs, until nobody uses it.
    cache = lived_in.place.quick_path("cache")
    with lived_in.login(ALICE) as imap:
        imap.select()
        imap.command(b"FETCH 1:* (ENVELOPE)")
        hits = search_folder(cache, WORDS)
    assert {os.path.basename(hit.path) for hit in hits} == {"dovecot.index.cache"}
    assert lived_in.mailseal("lock", "--all").returncode == 0
    assert search_folder(cache, WORDS) == []


def test_cache_and_temporary_files_are_on_tmpfs(lived_in: Lab) -> None:
    on_disk = {name for _, _, names in os.walk(lived_in.dir) for name in names}
    assert "dovecot.index.log" in on_disk
    assert "dovecot.index.cache" not in on_disk
    assert os.stat(lived_in.place.quick).st_dev != os.stat(lived_in.dir).st_dev
    settings = lived_in.dovecot.settings("mail_temp_dir")
    assert settings == lived_in.place.quick_path("tmp")


def test_no_password_is_anywhere(lived_in: Lab) -> None:
    for folder in (lived_in.dir, lived_in.place.quick):
        assert search_folder(folder, [PASSWORD, WRONG]) == []


def test_every_mail_file_is_sealed(lived_in: Lab) -> None:
    files = [
        os.path.join(root, name)
        for root, _, names in os.walk(lived_in.place.path("mail"))
        for name in names
        if os.path.basename(root) in ("new", "cur")
    ]
    assert len(files) == 6
    for path in files:
        with open(path, "rb") as stream:
            assert stream.read(10) == b"CRYPTED\x03\x07\x02", path


@pytest.mark.parametrize("before", range(4))
def test_the_search_sees_base64_at_every_offset(before: int) -> None:
    import base64

    data = base64.encodebytes(b"-" * before + b"a pomegranate, and more of it" * 9)
    assert ("pomegranate", "base64") in search_bytes(data, ["pomegranate"])


def test_the_search_sees_quoted_printable_with_soft_breaks() -> None:
    assert search_bytes(b"x Pome=\r\ngranate y", ["pomegranate"])
    assert search_bytes(b"M=C3=BChlenb=C3=A4=\r\ncker", ["Mühlenbäcker"])
    assert len(forms("Mühlenbäcker")) == 6
