# SPDX-License-Identifier: MIT
"""Checks of stored mail: bits of a mail, all mails in a folder, all lines of dovecot-uidlist."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import Damaged
from mailseal.mailbox import examine, replay, uidlist, verify
from mailseal.mailbox.examine import CHANGED, CLEAR, DAMAGED, FOREIGN, SIZE, Expected, Seen, look
from mailseal.mailbox.report import TWICE, UNREADABLE, Report

KEY = PrivateKey.generate()
IDS = frozenset((KEY.key_id,))
WITHOUT = Expected(IDS)
WITH = Expected(IDS, (KEY,))
PLAIN = b"Subject: x\n\nhello\n"


@pytest.fixture
def maildir(tmp_path: Path) -> str:
    for name in ("cur", "new", "tmp", ".Sent/cur", ".Sent/new", ".Sent/tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True)
    return str(tmp_path / "Maildir")


def _put(path: str, content: bytes) -> str:
    with open(path, "wb") as stream:
        stream.write(content)
    return path


def _all(maildir: str, expected: Expected = WITHOUT, jobs: int = 1) -> Report:
    whole = Report()
    for number in range(jobs):
        for report in verify.verify(maildir, expected, share=(number, jobs)):
            whole.mails += report.mails
            whole.counts.update(report.counts)
            whole.findings += report.findings
            whole.marks += report.marks
    return whole


def test_an_empty_lock_file_from_a_crash_is_reported(maildir: str) -> None:
    lock = _put(f"{maildir}/.Sent/dovecot-uidlist.lock", b"")
    assert _all(maildir).counts == {}  # Dovecot may be about to write it
    os.utime(lock, (1, 1))
    (finding,) = _all(maildir).findings
    assert (finding.kind, finding.path) == ("odd", lock)
    _put(lock, b"17:host")
    os.utime(lock, (1, 1))
    assert _all(maildir).counts == {}


def test_every_bit_of_a_mail(tmp_path: Path) -> None:
    """With the key, every changed bit is detected, also in the header and the tag."""
    sealed = dcrypt.seal(KEY.public, PLAIN)
    path = str(tmp_path / "1.M1.host,S=18,W=21:2,")
    unseen = []
    for offset in range(len(sealed)):
        changed = bytearray(sealed)
        changed[offset] ^= 1 << offset % 8
        _put(path, bytes(changed))
        if look(path, WITH).problem is None:
            unseen.append(offset)
    assert unseen == []
    assert look(_put(path, sealed), WITH).problem is None
    for size in range(1, len(sealed)):
        assert look(_put(path, sealed[:size]), WITH).problem is not None
        assert look(path, WITHOUT).problem is not None


@pytest.mark.parametrize(
    ("sizes", "without", "with_key"),
    [
        ("", None, None),
        (",S=18,W=21", None, None),
        (",S=18", None, None),
        (",S=19,W=22", SIZE, SIZE),
        (",S=17,W=20", SIZE, SIZE),
        (",S=18,W=17", SIZE, SIZE),
        (",S=18,W=22", None, SIZE),
        (",S=18,W=400", SIZE, SIZE),
    ],
)
def test_sizes_in_a_name(
    tmp_path: Path, sizes: str, without: str | None, with_key: str | None
) -> None:
    path = _put(str(tmp_path / f"1.M1.host{sizes}:2,S"), dcrypt.seal(KEY.public, PLAIN))
    for expected, kind in ((WITHOUT, without), (WITH, with_key)):
        problem = look(path, expected).problem
        assert (problem and problem[0]) == kind


def test_line_ends_across_pieces_are_counted(tmp_path: Path) -> None:
    """A piece is 1 MiB; a CR LF is split at its end."""
    plain = b"x" * ((1 << 20) - 1) + b"\r\n" + b"y\n"
    name = f"1.M1.host,S={len(plain)},W={len(plain) + 1}:2,"
    assert look(_put(str(tmp_path / name), dcrypt.seal(KEY.public, plain)), WITH).problem is None


def test_mail_that_dovecot_has_compressed(tmp_path: Path) -> None:
    import gzip

    inside = gzip.compress(PLAIN * 100)
    path = str(tmp_path / f"1.M1.host,S={len(PLAIN) * 100},W=2100:2,")
    _put(path, dcrypt.seal(KEY.public, inside))
    assert look(path, WITHOUT).problem is not None
    assert look(path, Expected(IDS, compressed=True)).problem is None
    assert look(path, WITH).problem is None


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_shares_contain_each_mail_once(maildir: str, jobs: int) -> None:
    sealed = dcrypt.seal(KEY.public, PLAIN)
    for number in range(40):
        part = ("cur", "new", ".Sent/cur", ".Sent/new")[number % 4]
        _put(f"{maildir}/{part}/{number}.M{number}.host,S=18:2,", sealed if number % 2 else PLAIN)
    report = _all(maildir, jobs=jobs)
    assert report.mails == 40
    assert report.counts == Counter({CLEAR: 20})
    assert len({finding.path for finding in report.findings}) == 20
    assert {finding.folder for finding in report.findings} == {"INBOX", "Sent"}


def test_more_mails_than_one_report(maildir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "REPORT_MAILS", 3)
    for number in range(10):
        _put(f"{maildir}/cur/{number}.host:2,", dcrypt.seal(KEY.public, PLAIN))
    assert (_all(maildir).mails, len(set(_all(maildir).marks))) == (10, 10)


def test_copies_are_reported_and_hard_links_are_not(maildir: str) -> None:
    one = _put(f"{maildir}/cur/1.host:2,", dcrypt.seal(KEY.public, PLAIN))
    os.link(one, f"{maildir}/.Sent/cur/2.host:2,")
    two = _put(f"{maildir}/cur/3.host:2,", dcrypt.seal(KEY.public, PLAIN))
    with open(two, "rb") as stream:
        copied = _put(f"{maildir}/.Sent/cur/4.host:2,", stream.read())
    os.utime(two, (1, 1))
    marks = replay.Marks()
    marks.add(_all(maildir).marks)
    assert len(marks.doubled) == 2
    findings = [f for r in replay.sealed_alike(maildir, WITH, marks.doubled) for f in r.findings]
    assert [(f.kind, f.path, f.folder) for f in findings] == [(TWICE, copied, "Sent")]


def test_what_is_not_there_and_what_may_not_be_mounted(tmp_path: Path) -> None:
    home = tmp_path / "vhosts" / "example.org" / "alice" / "Maildir"
    (tmp_path / "vhosts").mkdir()
    assert [f.kind for f in _all(str(home)).findings] == [UNREADABLE]
    (tmp_path / "vhosts" / "example.net").mkdir()
    assert _all(str(home)).findings == []


def test_other_keys_and_other_headers(maildir: str) -> None:
    other = PrivateKey.generate()
    _put(f"{maildir}/cur/1.host:2,", dcrypt.seal(other.public, PLAIN))
    _put(f"{maildir}/cur/2.host:2,", dcrypt.MAGIC + b"\x01 of another version")
    _put(f"{maildir}/cur/3.host:2,", b"")  # an empty mail
    assert _all(maildir).counts == Counter({FOREIGN: 1, DAMAGED: 1})
    assert _all(maildir, WITH).counts == Counter({FOREIGN: 1, DAMAGED: 1})


def test_a_changed_mail_is_named_with_its_uid(maildir: str) -> None:
    sealed = bytearray(dcrypt.seal(KEY.public, PLAIN))
    sealed[-1] ^= 1
    _put(f"{maildir}/cur/5.host,S=18:2,S", bytes(sealed))
    _put(f"{maildir}/dovecot-uidlist", b"3 V1 N9 G0\n4 :4.host\n8 W21 :5.host,S=18\n")
    ((kind, uid),) = [(f.kind, f.uid) for f in _all(maildir, WITH).findings]
    assert (kind, uid) == (CHANGED, 8)
    _put(f"{maildir}/dovecot-uidlist", b"3 V1 N9 G0\n4 :4.host\nrubbish\n")
    assert _all(maildir, WITH).counts == Counter({CHANGED: 1, DAMAGED: 1})


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (b"3 V1 N9 G0\n1 :a\n2 W5 P7 :b,S=1:2,S\n", [(1, "a"), (2, "b,S=1")]),
        (b"3 V1 N9\n1 :a b\n2 :c\n3 :half", [(1, "a b"), (2, "c")]),
        (b"1 17 9\n1 a\n4294967294 b\n", [(1, "a"), (4294967294, "b")]),
        (b"3 V1 N9\n", []),
    ],
)
def test_a_list_of_uids(tmp_path: Path, text: bytes, right: list[tuple[int, str]]) -> None:
    path = _put(str(tmp_path / uidlist.NAME), text)
    assert list(uidlist.entries(path)) == right
    assert uidlist.uids(path, {"b"}) == {base: uid for uid, base in right if base == "b"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"2 1 9\n",
        b"3 V1\n",
        b"3 V0 N9\n",
        b"3 V1 N9\n0 :a\n",
        b"3 V1 N9\n2 :a\n2 :b\n",
        b"3 V1 N9\n2 :a\n1 :b\n",
        b"3 V1 N9\n4294967295 :a\n",
        b"3 V1 N9\n1 a\n",
        b"3 V1 N9\n1 :\n",
        b"3 V1 N9\n1 :a/b\n",
        b"3 V1 N9\nx :a\n",
        b"3 V1 N9\n1 :" + b"a" * 20000 + b"\n",
    ],
)
def test_a_damaged_list_of_uids(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(Damaged):
        list(uidlist.entries(_put(str(tmp_path / uidlist.NAME), text)))


def test_no_list_of_uids_yet(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(uidlist.entries(str(tmp_path / uidlist.NAME)))


@pytest.mark.parametrize("changed", [False, True])
def test_a_mail_that_is_renamed_meanwhile(
    maildir: str, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    """Between listing and check, Dovecot moves it from new/ to cur/, then sets a flag."""
    sealed = bytearray(dcrypt.seal(KEY.public, PLAIN))
    sealed[-1] ^= changed
    names = [f"{maildir}/{name}" for name in ("new/1.host", "cur/1.host:2,", "cur/1.host:2,S")]
    path = _put(names.pop(0), bytes(sealed))

    def renamed_first(wanted: str, expected: Expected) -> Seen:
        nonlocal path
        if names:
            os.rename(path, path := names.pop(0))
        return look(wanted, expected)

    monkeypatch.setattr(examine, "look", renamed_first)
    report = _all(maildir, WITH)
    assert not names
    assert (report.mails, len(report.marks)) == (1, 1)
    assert [(f.kind, f.path) for f in report.findings] == ([(CHANGED, path)] if changed else [])


def test_a_mail_that_is_removed_meanwhile(maildir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _put(f"{maildir}/cur/1.host:2,", PLAIN)

    def removed_first(wanted: str, expected: Expected) -> Seen:
        os.unlink(path)
        return look(wanted, expected)

    monkeypatch.setattr(examine, "look", removed_first)
    assert (_all(maildir).mails, _all(maildir).findings) == (0, [])
