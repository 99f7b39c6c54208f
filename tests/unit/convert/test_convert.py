# SPDX-License-Identifier: MIT
"""A conversion without failures, and what it leaves alone."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.mailbox import whole
from tests.unit.convert.box import FLAGGED, FORMS, FRESH, KEY, MAILS, OLD, Box
from tests.unit.steps import at_step, every_step, kill


def test_bytes_names_times_and_modes_stay(box: Box) -> None:
    box.fill()
    os.chmod(box.path / "cur" / FLAGGED, 0o640)
    before = {name: (box.path / name).stat() for name in MAILS}
    report = box.convert()
    assert (report.tally.converted, report.total, report.folders) == (2, 2, 1)
    assert box.mails() == MAILS
    box.require_converted()
    for name, was in before.items():
        now = (box.path / name).stat()
        assert (now.st_mtime_ns, now.st_mode) == (was.st_mtime_ns, was.st_mode)
        assert now.st_ino != was.st_ino
    again = {name: (box.path / name).stat().st_ino for name in MAILS}
    report = box.convert()
    assert (report.tally.converted, report.tally.already) == (0, 2)
    assert {name: (box.path / name).stat().st_ino for name in MAILS} == again


def test_files_that_cannot_be_converted_are_listed(sealing: Box) -> None:
    sealing.fill()
    cur = sealing.path / "cur"
    stranger = PrivateKey.generate("prime256v1")
    outside = sealing.path.parent / "outside"
    outside.write_bytes(b"not in the mailbox")
    (cur / "empty").write_bytes(b"")
    (cur / "own").write_bytes(dcrypt.seal(KEY.public, b"x"))
    (cur / "foreign").write_bytes(dcrypt.seal(stranger.public, b"x"))
    (cur / "damaged").write_bytes(dcrypt.MAGIC + b"\x02")
    (cur / "link").symlink_to(outside)
    os.mkfifo(cur / "pipe")
    (cur / "folder").mkdir()
    (cur / ".hidden").write_bytes(b"no mail")
    (sealing.path / "tmp" / "of-dovecot").write_bytes(b"being written")
    elsewhere = sealing.path.parent / "elsewhere"
    for part in ("cur", "new", "tmp"):
        (elsewhere / part).mkdir(parents=True)
    (elsewhere / "cur" / "mail").write_bytes(b"somebody else's")
    (sealing.path / ".linked").symlink_to(elsewhere)
    report = sealing.convert()
    assert report.tally.converted == 2 and report.tally.already == 2
    assert {os.path.basename(path): why for path, why in report.tally.problems} == {
        "foreign": f"sealed to another key: {stranger.public.key_id.hex()[:16]}",
        "damaged": "a sealed mail is truncated in its header",
        "link": "is a symbolic link",
        "pipe": "is not a file",
        "folder": "is not a file",
    }
    assert [(s.path, s.why) for s in report.skipped] == [
        (str(sealing.path / ".linked"), "is a link")
    ]
    assert outside.read_bytes() == b"not in the mailbox"
    assert (elsewhere / "cur" / "mail").read_bytes() == b"somebody else's"
    assert (sealing.path / "tmp" / "of-dovecot").exists()


@pytest.mark.parametrize("linked", ("tmp", "cur"))
def test_a_folder_with_a_linked_part_is_not_touched(sealing: Box, linked: str) -> None:
    sealing.fill()
    os.rename(sealing.path / linked, sealing.path.parent / linked)
    (sealing.path / linked).symlink_to(sealing.path.parent / linked)
    report = sealing.convert()
    assert report.tally.seen == 0 and not report.nothing_left
    assert [s.path for s in report.skipped] == [str(sealing.path / linked)]


def test_shred_overwrites_the_blocks(sealing: Box) -> None:
    """Checked with a descriptor that is opened while nobody reads the old file."""
    sealing.fill()
    seen = set()

    def look(pid: int) -> None:
        for entry in (sealing.path / "tmp").iterdir():
            data = Path(f"/proc/self/root{entry}").stat()
            if data.st_size == 70_000:
                seen.add(entry.read_bytes() == bytes(70_000) if not leased(entry) else None)

    def leased(path: Path) -> bool:
        with open("/proc/locks", encoding="ascii") as stream:
            return any("LEASE" in line and f":{path.stat().st_ino} " in line for line in stream)

    def shred() -> None:
        sealing.convert(shred=True)

    for _ in every_step(sealing.fill, shred, look):
        pass
    assert True in seen


def test_one_run_at_a_time(sealing: Box) -> None:
    sealing.fill()
    with whole.held(str(sealing.path)), pytest.raises(whole.Busy):
        sealing.convert()


def test_several_processes_have_the_same_result(box: Box) -> None:
    box.fill()
    wanted = dict(MAILS)
    key = {id(FORMS["seal"]): None, id(FORMS["unseal"]): KEY, id(FORMS["reseal"]): OLD}
    for number, folder in itertools.product(range(300), ("", ".Sent")):
        mail = b"number %d\n" % number
        sealed_to = key[id(box.form)]
        where = box.path / folder
        for part in ("cur", "new", "tmp"):
            (where / part).mkdir(parents=True, exist_ok=True)
        data = mail if sealed_to is None else dcrypt.seal(sealed_to.public, mail)
        (where / "cur" / f"{number}.host:2,").write_bytes(data)
        if not folder:
            wanted[f"cur/{number}.host:2,"] = mail
    with whole.held(str(box.path)):
        report = whole.run(str(box.path), box.form, jobs=2)
    assert (report.tally.converted, report.folders) == (602, 2)
    assert box.mails() == wanted
    box.require_converted()


def test_a_mail_that_was_changed_is_not_unsealed(tmp_path: Path) -> None:
    box = Box(tmp_path / "Maildir", "unseal")
    box.fill()
    path = box.path / "new" / FRESH
    changed = bytearray(path.read_bytes())
    changed[1000] ^= 1
    path.write_bytes(changed)
    report = box.convert()
    assert report.tally.converted == 1 and report.tally.left == 1
    assert "its tag is wrong" in report.tally.problems[0][1]
    assert path.read_bytes() == changed


def test_a_step_that_does_not_exist(sealing: Box) -> None:
    sealing.fill()
    assert not at_step(100_000, sealing.convert_all, kill)
