# SPDX-License-Identifier: MIT
"""The new file is compared with the old one before it gets the mail's name."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mailseal import durable
from mailseal.crypto import dcrypt
from mailseal.mailbox import convert
from mailseal.mailbox.exchange import Replacement
from tests.unit.convert.box import FLAGGED, KEY, MAILS, OLD, Box

SEALED_TO = {"seal": None, "unseal": KEY, "reseal": OLD}
NAME = "1700000009.M3P1.host:2,"


@pytest.fixture(autouse=True)
def several_threads(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_AT_ONCE", 8)


def put(box: Box, form: str, mail: bytes) -> Path:
    """Store a third mail in the form before the conversion."""
    key = SEALED_TO[form]
    path = box.path / "cur" / NAME
    path.write_bytes(mail if key is None else dcrypt.seal(key.public, mail))
    return path


@pytest.mark.parametrize("form", SEALED_TO)
@pytest.mark.parametrize(
    "size", [1, 65_280, 65_281, 65_535, 65_536, 65_537, 262_144, 262_145, 3 << 20, (8 << 20) + 1]
)
def test_any_size(tmp_path: Path, form: str, size: int) -> None:
    box = Box(tmp_path / "Maildir", form)
    box.fill()
    mail = os.urandom(size)
    put(box, form, mail)
    box.convert_all()
    assert box.mails() == {**MAILS, f"cur/{NAME}": mail}
    box.require_converted()


def first(path: str) -> None:
    flip(path, 0)


def in_the_header(path: str) -> None:
    flip(path, 100)


def last(path: str) -> None:
    flip(path, os.path.getsize(path) - 1)


def in_the_middle(path: str) -> None:
    flip(path, os.path.getsize(path) // 2)


def cut(path: str) -> None:
    os.truncate(path, os.path.getsize(path) - 1)


def emptied(path: str) -> None:
    os.truncate(path, 0)


def longer(path: str) -> None:
    with open(path, "ab") as stream:
        stream.write(b"\0")


def flip(path: str, at: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes((byte ^ 1,)))


@pytest.mark.parametrize("form", SEALED_TO)
@pytest.mark.parametrize("size", [200, 70_000, 3 << 20])
@pytest.mark.parametrize("fault", [first, in_the_header, in_the_middle, last, cut, emptied, longer])
def test_a_new_file_that_the_disk_has_changed_never_gets_the_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    size: int,
    fault: Callable[[str], None],
) -> None:
    box = Box(tmp_path / "Maildir", form)
    box.fill()
    path = put(box, form, b"x" * size)
    before = path.read_bytes()
    sync = Replacement.sync

    def faulty(replacement: Replacement) -> None:
        sync(replacement)
        if replacement.path == str(path):
            fault(replacement.temporary)

    monkeypatch.setattr(Replacement, "sync", faulty)
    report = box.convert()
    assert "is not what was written" in report.stopped
    assert path.read_bytes() == before
    assert box.left_over() == []


def test_an_old_file_that_somebody_writes_to_is_listed(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mail programs never do so.  What they have written stays, and the other mail is converted."""
    box.fill()
    path = box.path / "cur" / FLAGGED
    sync = Replacement.sync

    def written(replacement: Replacement) -> None:
        sync(replacement)
        if replacement.path == str(path):
            path.write_bytes(b"theirs")

    monkeypatch.setattr(Replacement, "sync", written)
    report = box.convert()
    assert path.read_bytes() == b"theirs"
    assert not report.stopped and report.tally.converted == 1
    assert box.left_over() == []


@pytest.mark.parametrize("failing", range(3))
def test_one_file_cannot_be_synced(box: Box, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    box.fill()
    put(box, next(f for f, key in SEALED_TO.items() if Box(box.path, f).form is box.form), b"c")
    before = {path: path.read_bytes() for path in sorted(box.path.glob("*/*"))}
    names = sorted(os.path.basename(path) for path in before)
    real = durable.sync_file

    def sync_file(fd: int) -> None:
        if names[failing] in opened.get(fd, ""):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    opened: dict[int, str] = {}
    write = Replacement.write

    def noted(replacement: Replacement, pieces: object) -> None:
        write(replacement, pieces)  # type: ignore[arg-type]
        opened[replacement.new] = replacement.path

    monkeypatch.setattr(Replacement, "write", noted)
    monkeypatch.setattr(durable, "sync_file", sync_file)
    report = box.convert()
    assert "No space" in report.stopped and report.tally.converted == 0
    assert {path: path.read_bytes() for path in sorted(box.path.glob("*/*"))} == before
