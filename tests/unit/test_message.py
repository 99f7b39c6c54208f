# SPDX-License-Identifier: MIT
"""Values computed from a mail: sizes, queue ids, dates, folders."""

from __future__ import annotations

import itertools
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailseal.delivery.folders import (
    Folders,
    folder_path,
    header_values,
    modified_utf7,
    parse_rule,
)
from mailseal.delivery.lmtp.syntax import Address, Reply, printable
from mailseal.delivery.message import PIECE, Envelope, Message, Stored, date, trace_headers
from mailseal.mailbox import maildir
from tests.delivery.store import mail

BODIES = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"\0"]), max_size=30).map(b"".join)


@given(BODIES, st.integers(1, 7))
def test_sizes_are_those_of_what_is_stored(body: bytes, piece: int) -> None:
    stored = Stored(b"A: b\r\n", mail(body, piece))
    text = b"".join(stored)
    assert len(text) == stored.size
    assert len(re.sub(rb"(?<!\r)\n", b"\r\n", text)) == stored.with_crlf
    # Dovecot sends CR LF for LF: the stored text becomes the original mail again.
    given_back = re.sub(rb"(?<!\r)\n", b"\r\n", text)
    assert given_back == b"A: b\r\n" + re.sub(rb"(?<!\r)\n", b"\r\n", body)
    assert not re.search(rb"(?<!\r)\r\n", text)


def test_cr_cr_lf_between_two_pieces() -> None:
    message = mail(b"a\r\r\nb\r\n", 2)
    message.pieces = [b"a\r", b"\r\nb\r\n"]
    stored = Stored(b"", message)
    assert b"".join(stored) == b"a\r\r\nb\n"
    assert (stored.size, stored.with_crlf) == (6, 7)


@given(st.lists(st.integers(0, 2 * PIECE), max_size=8))
def test_small_pieces_are_joined_and_nothing_is_lost(sizes: list[int]) -> None:
    message = Message()
    given = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    for piece in given:
        message.add(piece)
        assert message.size == sum(map(len, message.pieces))
    assert b"".join(message.pieces) == b"".join(given)
    assert message.head(70000) == b"".join(given)[:70000]
    for one, two in itertools.pairwise(message.pieces):
        assert len(one) + len(two) > PIECE
        assert isinstance(one, bytes)  # no room for more


@pytest.mark.parametrize(
    ("head", "queue_id"),
    [
        (
            b"Received: from x (y [1.2.3.4])\r\n\tby z (Postfix) with ESMTPS id 4XyZ0g3kTzz1\r\n",
            "4XyZ0g3kTzz1",
        ),
        (b"Received: by z (Postfix, from userid 0)\r\n\tid AA32D222520; Mon\r\n", "AA32D222520"),
        (b"X: y\r\nReceived: by z with ESMTP id ABCDEF12\r\nReceived: id 99999999\r\n", "ABCDEF12"),
        (b"Subject: Received: by id AAAAAAAA\r\n\r\nReceived: id 12345678\r\n", "NOQUEUE"),
        (b"Received: by z with ESMTP id a;evil\x1b\r\n", "NOQUEUE"),
        (b"", "NOQUEUE"),
    ],
)
def test_queue_id(head: bytes, queue_id: str) -> None:
    assert mail(head + b"\r\ntext\r\n").queue_id() == queue_id
    assert mail(head + b"\r\ntext\r\n", 5).queue_id() == queue_id


def test_date(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone, text in (
        ("UTC", "Thu, 01 Jan 1970 00:00:00 +0000"),
        ("Asia/Kolkata", "Thu, 01 Jan 1970 05:30:00 +0530"),
        ("America/St_Johns", "Wed, 31 Dec 1969 20:30:00 -0330"),
    ):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert date(0) == text
    monkeypatch.undo()
    time.tzset()


def test_trace_headers_are_one_line_each() -> None:
    envelope = Envelope(Address('a"\x1b', "b"), "client", "::1", "mx")
    text = trace_headers(envelope, Address("ü", "x"))
    assert text.count(b"\r\n") == 7
    assert text.count(b"\n") == 7
    assert b"Received: from client ([::1])\r\n\tby mx with LMTP\r\n" in text
    assert b"\x1b" not in text


def test_printable() -> None:
    assert printable("ä b") == "ä b"
    assert printable("a\r\n\x1b[0m\u2028\u202e\x85") == "a???[0m???"
    assert Reply(250, "2.0.0", "a\r\nb").wire() == b"250 2.0.0 a??b\r\n"


def test_names_are_unique_and_dovecots() -> None:
    names = {maildir.unique_name() for _ in range(1000)}
    assert len(names) == 1000
    for name in names:
        assert re.fullmatch(rf"\d{{10}}\.M\d{{6}}P{os.getpid()}Q\d+\.[^/:,]+", name)


def test_no_symlink_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maildir.create(str(tmp_path / "Maildir"))
    monkeypatch.setattr(maildir, "unique_name", lambda: "known")
    (tmp_path / "Maildir" / "tmp" / "known").symlink_to(tmp_path / "victim")
    with pytest.raises(Exception, match="cannot write"):
        maildir.stage(str(tmp_path / "Maildir"), [b"x"])
    assert not (tmp_path / "victim").exists()


def test_a_made_maildir_is_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "Maildir"
    old = os.umask(0)
    try:
        staged = maildir.stage(str(path), [b"x"])
        staged.sizes = ",S=1,W=1"
        assert maildir.store([staged]) == [None]
    finally:
        os.umask(old)
    for folder in (path, path / "new", path / "cur", path / "tmp", path.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    (stored,) = (path / "new").iterdir()
    assert stored.stat().st_mode & 0o777 == 0o600
    assert stored.name.endswith(",S=1,W=1")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Junk", "/m/.Junk"),
        ("a/b.c", "/m/.a.b.c"),
        ("inbox", "/m"),
        ("Entwürfe & mehr", "/m/.Entw&APw-rfe &- mehr"),
        ("..", None),
        ("a/../b", None),
        ("", None),
        ("a..b", None),
        ("/etc", None),
        ("~root", None),
        ("a\0b", None),
        ("a\nb", None),
        ("%", None),
        ("x" * 300, None),
    ],
)
def test_folder_paths(name: str, path: str | None) -> None:
    assert folder_path("/m", "maildir++", name) == path


def test_folder_paths_of_other_layouts() -> None:
    assert folder_path("/m", "fs", "a/b") == "/m/a/b"
    assert folder_path("/m", "fs", "cur") is None
    assert folder_path("/m", "index", "a") is None


@given(st.text(max_size=30))
def test_folders_stay_inside(name: str) -> None:
    path = folder_path("/m", "maildir++", name)
    assert path is None or path == "/m" or re.fullmatch(r"/m/\.[^/]+", path)
    path = folder_path("/m", "fs", name)
    assert path is None or os.path.normpath(path) == path
    assert path is None or path == "/m" or path.startswith("/m/")


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=20))
def test_modified_utf7_is_imaps(name: str) -> None:
    encoded = modified_utf7(name)
    assert encoded.isascii()
    assert encoded.replace("&-", "").count("&") <= encoded.count("-")


def test_rules(tmp_path: Path) -> None:
    root = str(tmp_path / "Maildir")
    folders = Folders(["X-Spam: Yes* => Junk", "List-Id: *<age.*>* => Lists/age"], "existing")

    def folder(text: bytes) -> str:
        return folders.choose(root, "maildir++", "", mail(text))

    assert folder(b"X-Spam: YES, score\r\n\r\n") == f"{root}/.Junk"
    assert folder(b"x-spam:\r\n  yes\r\n\r\n") == f"{root}/.Junk"
    assert folder(b"X-Spam: No\r\n\r\n") == root
    assert folder(b"A: b\r\n\r\nX-Spam: Yes\r\n") == root
    assert folder(b"X-Spamd: Yes\r\n\r\n") == root
    assert folder(b"List-Id: age list\r\n <age.example.org>\r\n\r\n") == f"{root}/.Lists.age"
    assert folder(b"") == root
    assert os.path.exists(f"{root}/.Junk/maildirfolder")
    assert maildir.is_maildir(f"{root}/.Lists.age")


@pytest.mark.parametrize(
    "text", ["X-Spam Yes => Junk", "X: y", "X: y => ../a", "X: => a", "X: y =>"]
)
def test_no_rules(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rule(text)


def test_detail_folders(tmp_path: Path) -> None:
    root = str(tmp_path)
    maildir.create(f"{root}/.there")

    def chosen(policy: str, detail: str) -> str:
        return Folders([], policy).choose(root, "maildir++", detail, Message())

    assert chosen("existing", "there") == f"{root}/.there"
    assert chosen("existing", "new") == root
    assert chosen("ignore", "there") == root
    assert chosen("create", "../../x") == root
    assert chosen("create", "new") == f"{root}/.new"
    assert maildir.is_maildir(f"{root}/.new")


def test_only_wanted_headers_are_looked_at() -> None:
    found = header_values(mail(b"A: 1\r\nB: 2\r\n 3\r\na: 4\r\n\r\nA: 5\r\n"), {b"a", b"b"})
    assert found == {b"a": ["1", "4"], b"b": ["2 3"]}
