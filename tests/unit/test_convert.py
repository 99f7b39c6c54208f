# SPDX-License-Identifier: MIT
"""Stored mail is converted while clients use the mailbox, and while failures happen.

After any event before or after any system call, the mailbox contains each mail once, with
the right bytes, and the next run completes the work.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.mailbox import folder_lock, whole
from mailseal.mailbox.convert import Tally, convert
from mailseal.mailbox.exchange import LEFT_OVER
from mailseal.mailbox.folders import Folder
from mailseal.mailbox.forms import Form, Reseal, Seal, Unseal
from tests.unit.steps import at_step, every_step, kill

KEY = PrivateKey.generate("prime256v1")
OLD = PrivateKey.generate("prime256v1")
FORMS: dict[str, Form] = {
    "seal": Seal(KEY.public),
    "unseal": Unseal([KEY, OLD]),
    "reseal": Reseal(KEY.public, [OLD]),
}
FLAGGED = "1700000000.M1P1.host,S=12,W=14:2,S"
FRESH = "1700000001.M2P1.host,S=70000,W=70100"
MAILS = {f"cur/{FLAGGED}": b"Subject: a\n\n", f"new/{FRESH}": b"x" * 70_000}


class Box:
    """A Maildir with two mails, in the form before the conversion."""

    def __init__(self, path: Path, form: str) -> None:
        self.path = path
        self.form = FORMS[form]
        key = {"seal": None, "unseal": KEY, "reseal": OLD}[form]
        self.stored = {
            name: mail if key is None else dcrypt.seal(key.public, mail)
            for name, mail in MAILS.items()
        }

    def fill(self) -> None:
        for entry in list(self.path.iterdir()) if self.path.is_dir() else ():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for part in ("cur", "new", "tmp"):
            (self.path / part).mkdir(parents=True)
        for number, (name, data) in enumerate(self.stored.items()):
            (self.path / name).write_bytes(data)
            os.utime(self.path / name, (1_600_000_000, 1_600_000_000 + number))

    def convert(self, *, shred: bool = False) -> whole.Report:
        with whole.held(str(self.path)):
            return whole.run(str(self.path), self.form, shred=shred)

    def convert_all(self) -> None:
        report = self.convert()
        assert report.nothing_left, report

    def convert_some(self) -> None:
        """Convert as much as possible."""
        self.convert()

    def mails(self) -> dict[str, bytes]:
        """The mails in clear, by name, in any form."""
        found = {}
        for part in ("cur", "new"):
            for path in sorted((self.path / part).iterdir()):
                found[f"{part}/{path.name}"] = self.plain(path)
        return found

    def plain(self, path: Path) -> bytes:
        with path.open("rb") as stream:
            if not dcrypt.is_sealed(stream.read(dcrypt.MAX_HEADER)):
                return path.read_bytes()
            return b"".join(dcrypt.open_sealed(stream, [KEY, OLD]))

    def left_over(self) -> list[str]:
        return os.listdir(self.path / "tmp")

    def require_converted(self) -> None:
        """Every mail has the wanted form, and tmp/ is empty."""
        assert self.left_over() == []
        for part in ("cur", "new"):
            for path in (self.path / part).iterdir():
                assert self.form.work(path.read_bytes()) is None, path


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that a killed process has left is not waited for."""
    monkeypatch.setattr(folder_lock, "_YOUNG", 0.0)


@pytest.fixture(params=FORMS)
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    return Box(tmp_path / "Maildir", request.param)


@pytest.fixture
def sealing(tmp_path: Path) -> Box:
    return Box(tmp_path / "Maildir", "seal")


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


def test_kill_9_at_every_system_call(box: Box) -> None:
    left = []
    for _ in every_step(box.fill, box.convert_all, kill):
        assert box.mails() == MAILS
        left.append(len(box.left_over()))
        assert all(name.startswith(LEFT_OVER) for name in box.left_over())
        box.convert_all()
        assert box.mails() == MAILS
        box.require_converted()
    assert len(left) > 40 and max(left) == 2


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.parametrize("form", FORMS)
def test_the_disk_is_full_at_every_system_call(small_disk: Path, form: str) -> None:
    box = Box(small_disk / "Maildir", form)
    full = small_disk / "full"

    def fill_up(pid: int) -> None:
        with full.open("wb", buffering=0) as stream:
            for size in (4096, 1):
                try:
                    while True:
                        stream.write(b"x" * size)
                except OSError:
                    pass

    def prepare() -> None:
        full.unlink(missing_ok=True)
        box.fill()

    stopped = 0
    reports = small_disk / "report"

    def work() -> None:
        reports.unlink(missing_ok=True)
        if "No space" in box.convert().stopped:
            reports.touch()

    for _ in every_step(prepare, work, fill_up):
        full.unlink()
        stopped += reports.exists()
        assert box.mails() == MAILS
        assert box.left_over() == []
        box.convert_all()
        assert box.mails() == MAILS
        box.require_converted()
    assert stopped > 3


def test_read_only_at_every_system_call(small_disk: Path) -> None:
    """As the kernel does after an error.  It refuses while a file is open for writing."""
    box = Box(small_disk / "Maildir", "seal")
    done = []

    def remount(how: str) -> bool:
        command = ["mount", "-o", f"remount,{how}", str(small_disk)]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    for _ in every_step(box.fill, box.convert_some, lambda _: done.append(remount("ro"))):
        assert remount("rw")
        assert box.mails() == MAILS
        box.convert_all()
        assert box.mails() == MAILS
        box.require_converted()
    assert done.count(True) > 10


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

    def moved(folder: Folder, uid_list: str, size: int) -> Iterator[whole._Group]:
        for group in groups(folder, uid_list, size):
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


def test_a_signal_at_every_system_call(sealing: Box, request: pytest.FixtureRequest) -> None:
    """SIGTERM to the service: Python's exception may be raised between any two steps."""

    working = False

    def stop(*_: object) -> None:
        if working:
            raise KeyboardInterrupt

    def work() -> None:
        nonlocal working
        with contextlib.suppress(KeyboardInterrupt):
            working = True
            sealing.convert()
            working = False

    before = signal.signal(signal.SIGTERM, stop)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, before))
    for _ in every_step(sealing.fill, work, lambda pid: os.kill(pid, signal.SIGTERM)):
        assert sealing.mails() == MAILS
        sealing.convert_all()
        assert sealing.mails() == MAILS
        sealing.require_converted()


def test_convert_takes_names_that_are_not_true_any_more(sealing: Box) -> None:
    sealing.fill()
    tally = Tally()
    names = [("new", FLAGGED.partition(":")[0]), ("cur", "gone:2,")]
    convert(str(sealing.path), names, sealing.form, tally)
    assert (tally.converted, tally.gone, tally.left) == (1, ["gone:2,"], 0)


def test_a_step_that_does_not_exist(sealing: Box) -> None:
    sealing.fill()
    assert not at_step(100_000, sealing.convert_all, kill)
