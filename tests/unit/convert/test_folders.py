# SPDX-License-Identifier: MIT
"""Folders are renamed, deleted or unmounted during a conversion, or are odd from the beginning."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.admin.conversion import describe
from mailseal.errors import NotConvertible
from mailseal.mailbox import clear_text, whole
from mailseal.mailbox.folders import Folder, walk
from mailseal.mailbox.forms import Seal
from mailseal.mailbox.listing import Locks
from tests.unit.convert.box import KEY, MAILS, Box
from tests.unit.steps import every_step


def run(root: Path) -> whole.Report:
    with whole.held(str(root)):
        return whole.run(str(root), Seal(KEY.public))


def make(root: Path) -> None:
    for part in ("cur", "new", "tmp"):
        (root / part).mkdir(parents=True, exist_ok=True)


def test_a_client_renames_a_folder_at_every_system_call(tmp_path: Path) -> None:
    root = tmp_path / "Maildir"
    old, new = Box(root / ".Old", "seal"), Box(root / ".New", "seal")
    stopped = 0

    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        make(root)
        old.fill()

    report = tmp_path / "stopped"

    def work() -> None:
        report.unlink(missing_ok=True)
        if run(root).stopped:
            report.touch()

    for _ in every_step(prepare, work, lambda _: old.path.rename(new.path)):
        assert new.mails() == MAILS
        stopped += report.exists()
        new.require_converted()
    assert stopped == 0


def test_a_mailbox_that_vanishes_is_not_done(sealing: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example the file system is unmounted: mailseal-sealer must try again later."""
    sealing.fill()
    groups = whole._groups

    def vanish(folder: Folder, locks: Locks, size: int) -> Iterator[whole._Group]:
        for group in groups(folder, locks, size):
            shutil.rmtree(sealing.path)
            yield group

    monkeypatch.setattr(whole, "_groups", vanish)
    report = sealing.convert()
    assert not report.nothing_left
    assert report.stopped == f"{sealing.path} does not exist any more"


def test_a_link_to_a_mailbox_is_refused_with_a_hint(tmp_path: Path) -> None:
    make(tmp_path / "real")
    (tmp_path / "Maildir").symlink_to(tmp_path / "real")
    with pytest.raises(NotConvertible, match="symbolic link") as caught:
        run(tmp_path / "Maildir")
    assert "its target" in (caught.value.hint or "")


def test_folders_nested_more_deeply_than_calls_may_be(tmp_path: Path) -> None:
    root = tmp_path / "Maildir"
    make(root)
    (root / "cur" / "1.host:2,").write_bytes(b"Subject: a\n\n")
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(root)
        for _ in range(1500):
            os.mkdir("f")
            os.chdir("f")
        Path("dovecot.index.cache").write_bytes(b"Subject: a")
        report = run(root)
        assert report.nothing_left and report.tally.converted == 1
        assert [found.path for found in walk(str(root)) if isinstance(found, Folder)] == [str(root)]
        assert len(list(clear_text.search(str(root)))) == 1
    finally:
        os.fchdir(before)
        os.close(before)
        shutil.move(root, tmp_path / "away")
        subprocess.run(["rm", "-rf", tmp_path / "away"], check=True)  # rmtree is recursive


def test_names_do_not_forge_lines_of_the_summary() -> None:
    """Anybody who can write to the mail store chooses them; they need not be UTF-8."""
    name = os.fsdecode(b"/cur/\xff\nmallory: 5 mails sealed\x1b[2J")
    entry = {
        "user": "alice",
        "left": 1,
        "problems": [[name, "is a symbolic link"]],
        "skipped": [[name, "is a link"]],
        "clear_text": [[name, "an index cache"]],
        "stopped": f"cannot write to {name}",
    }
    for text in (describe(entry, "sealing"), describe({"user": "alice", "error": name}, "sealing")):
        assert text.encode() and "\nmallory" not in text and "\x1b" not in text
