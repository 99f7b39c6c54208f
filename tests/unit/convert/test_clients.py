# SPDX-License-Identifier: MIT
"""Clients and other programs change the mailbox during a conversion."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from mailseal.crypto import dcrypt
from mailseal.mailbox import whole
from mailseal.mailbox.convert import Tally, convert
from mailseal.mailbox.folders import Folder
from mailseal.mailbox.listing import Locks
from tests.unit.convert.box import FLAGGED, FRESH, KEY, MAILS, Box
from tests.unit.steps import every_step


def rename(box: Box) -> None:
    """Set a flag, as Dovecot does."""
    os.rename(box.path / "cur" / FLAGGED, box.path / "cur" / f"{FLAGGED}T")


def take_up(box: Box) -> None:
    """A session opens the mailbox: new mail is moved to cur/."""
    os.rename(box.path / "new" / FRESH, box.path / "cur" / f"{FRESH}:2,")


def expunge(box: Box) -> None:
    os.unlink(box.path / "cur" / FLAGGED)


def copy(box: Box) -> None:
    """COPY, as Dovecot does it: a hard link."""
    os.link(box.path / "cur" / FLAGGED, box.path / "cur" / "1700000002.copy:2,S")


def copy_elsewhere_and_expunge(box: Box) -> None:
    """MOVE to an existing folder."""
    for part in ("cur", "new", "tmp"):
        (box.path / ".Trash" / part).mkdir(parents=True)
    os.rename(box.path / "cur" / FLAGGED, box.path / ".Trash" / "cur" / "1700000003.moved:2,S")


def replace(box: Box) -> None:
    """Another program converts the same mail, for example compresses it."""
    (box.path / "tmp" / "theirs").write_bytes(b"theirs")
    os.rename(box.path / "tmp" / "theirs", box.path / "cur" / FLAGGED)


AFTER: dict[Callable[[Box], None], dict[str, bytes]] = {
    rename: {f"cur/{FLAGGED}T": MAILS[f"cur/{FLAGGED}"], f"new/{FRESH}": MAILS[f"new/{FRESH}"]},
    take_up: {f"cur/{FLAGGED}": MAILS[f"cur/{FLAGGED}"], f"cur/{FRESH}:2,": MAILS[f"new/{FRESH}"]},
    expunge: {f"new/{FRESH}": MAILS[f"new/{FRESH}"]},
    copy: {**MAILS, "cur/1700000002.copy:2,S": MAILS[f"cur/{FLAGGED}"]},
    copy_elsewhere_and_expunge: {f"new/{FRESH}": MAILS[f"new/{FRESH}"]},
}


@pytest.mark.parametrize("change", AFTER, ids=lambda change: change.__name__)
def test_a_client_does_something_at_every_system_call(
    sealing: Box, change: Callable[[Box], None]
) -> None:
    steps = 0
    box = sealing

    def work() -> None:
        box.convert(shred=True)

    for _ in every_step(box.fill, work, lambda pid: change(box)):
        steps += 1
        assert box.mails() == AFTER[change]
        assert box.left_over() == []
        moved = box.path / ".Trash" / "cur" / "1700000003.moved:2,S"
        if change is copy_elsewhere_and_expunge:
            assert box.plain(moved) == MAILS[f"cur/{FLAGGED}"]
        if change in (rename, take_up):
            box.require_converted()
        box.convert_all()
        assert box.mails() == AFTER[change]
        box.require_converted()
    assert steps > 50


def test_a_file_of_another_program_is_kept_at_every_system_call(sealing: Box) -> None:
    for _ in every_step(sealing.fill, sealing.convert_some, lambda _: replace(sealing)):
        assert sealing.mails()[f"cur/{FLAGGED}"] == b"theirs"
        sealing.convert_all()
        assert sealing.mails()[f"cur/{FLAGGED}"] == b"theirs"
        sealing.require_converted()


@pytest.mark.parametrize("between", (0, 1, 2))
def test_a_file_of_another_program_is_put_back_under_the_present_name(
    sealing: Box, between: int
) -> None:
    """Another file replaces the mail, and some system calls later a flag is set."""
    steps = [lambda _: replace(sealing), *[lambda _: None] * between, lambda _: rename(sealing)]
    for _ in every_step(sealing.fill, sealing.convert_some, *steps):
        assert sealing.mails()[f"cur/{FLAGGED}T"] == b"theirs"
        assert len(sealing.mails()) == 2


def test_both_links_of_a_copied_mail_are_sealed(sealing: Box) -> None:
    sealing.fill()
    copy(sealing)
    report = sealing.convert(shred=True)
    assert report.tally.converted == 3
    # The first file still had the blocks of the second.
    assert report.tally.not_overwritten == 1
    assert sealing.mails() == AFTER[copy]
    sealing.require_converted()


def test_an_old_form_that_is_being_read_is_not_overwritten(sealing: Box) -> None:
    sealing.fill()
    with (sealing.path / "cur" / FLAGGED).open("rb") as reader:
        assert sealing.convert(shred=True).tally.not_overwritten == 1
        assert reader.read() == MAILS[f"cur/{FLAGGED}"]


def test_mail_that_arrives_meanwhile_is_sealed_too(sealing: Box) -> None:
    """Or it is moved to a folder that was converted already, or to a new one."""
    sealing.fill()
    later = iter((sealing.path / "cur" / "later:2,", sealing.path / ".New" / "cur" / "latest:2,"))

    def deliver(report: whole.Report) -> None:
        if report.tally.seen and (path := next(later, None)):
            for part in ("cur", "new", "tmp"):
                (path.parent.parent / part).mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"in clear")

    report = whole.Report()
    for report in whole.steps(str(sealing.path), sealing.form):
        deliver(report)
    assert report.tally.converted == 4 and report.folders == 2
    sealing.require_converted()
    assert dcrypt.is_sealed((sealing.path / ".New" / "cur" / "latest:2,").read_bytes())


def test_mails_that_are_known_may_be_moved_all_the_time(
    sealing: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a large mailbox with clients at work there is no pass without that."""
    monkeypatch.setattr(whole, "_PATIENCE", 0.0)
    sealing.fill()
    sealed = dcrypt.seal(KEY.public, b"Subject: b\n\n")
    cur = sealing.path / "cur"
    for number in range(9):
        (cur / f"160000000{number}.M1P1.host,S=12,W=14:2,S").write_bytes(sealed)
    groups, passes = whole._groups, itertools.count()

    def moved(folder: Folder, locks: Locks, size: int) -> Iterator[whole._Group]:
        for group in groups(folder, locks, size):
            # Between the listing and the first look at a mail.
            if 0 < (number := next(passes)) < 9:
                old = cur / f"160000000{number}.M1P1.host,S=12,W=14:2,S"
                old.rename(cur / f"165000000{number}.M1P1.host,S=12,W=14:2,S")
            yield group

    monkeypatch.setattr(whole, "_groups", moved)
    report = sealing.convert()
    assert report.nothing_left and report.gone == 1, report
    sealing.require_converted()


def test_a_copy_that_is_under_way_is_waited_for(sealing: Box) -> None:
    """A client's COPY links the mail in clear to tmp/, and moves it later."""
    sealing.fill()
    tmp = sealing.path / "tmp" / "1700000002.copy"
    os.link(sealing.path / "cur" / FLAGGED, tmp)
    renamed = threading.Timer(0.3, tmp.rename, (sealing.path / "cur" / "1700000002.copy:2,",))
    renamed.start()
    report = sealing.convert()
    renamed.join()
    assert report.tally.converted == 3
    sealing.require_converted()


def test_convert_takes_names_that_are_not_true_any_more(sealing: Box) -> None:
    sealing.fill()
    tally = Tally()
    names = [("new", FLAGGED.partition(":")[0]), ("cur", "gone:2,")]
    convert(str(sealing.path), names, sealing.form, tally, locks=Locks(""))
    assert (tally.converted, tally.gone, tally.left) == (1, ["gone:2,"], 0)
