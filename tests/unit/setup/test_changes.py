# SPDX-License-Identifier: MIT
"""Files are changed and changed back, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailseal.admin.setup import changes
from mailseal.admin.setup.changes import APPLIED, APPLYING, Change, Content, Journal, read
from mailseal.admin.setup.merge import without
from mailseal.errors import ConfigError, Conflict, Damaged, TemporaryError
from tests.unit.setup.killing import before_each_change

OLD, NEW, MADE = b"a = 1\nb = 2\nc = 3\n", b"a = 1\nb = 2\nours = yes\nc = 3\n", b"made\n"


class Site:
    """A folder of configuration: `main` is edited, `extra/more` is new; and a state folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf, self.state = root / "etc", root / "state" / "setup"
        self.main, self.made = self.conf / "main", self.conf / "extra" / "more"
        self.again()

    def again(self) -> None:
        """As before everything."""
        for folder in (self.conf, self.root / "state"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o755)
        self.main.write_bytes(OLD)
        self.main.chmod(0o640)

    def changes(self) -> list[Change]:
        before = read(str(self.main))
        assert before is not None
        after = Content(NEW, before.mode, before.owner)
        made = Content(MADE, 0o600, (os.getuid(), os.getgid()))
        return [
            Change(str(self.main), before, after, "why", "one"),
            Change(str(self.made), None, made, "why", "two"),
        ]

    def apply(self) -> None:
        journal = Journal(str(self.state))
        with journal.locked():
            journal.begin(self.changes(), begun=[])
            journal.make_folders()
            journal.put("one")
            journal.put("two")
            journal.become(APPLIED)

    def undo(self) -> list[str]:
        journal = Journal(str(self.state))
        with journal.locked():
            done = [journal.restore(entry) for entry in reversed(journal.entries())]
            if "conflict" not in done:
                journal.end()
        return done

    def look(self) -> dict[str, tuple[bytes, int]]:
        files = (path for path in self.conf.rglob("*") if path.is_file())
        return {path.name: (path.read_bytes(), path.stat().st_mode & 0o777) for path in files}

    def journal(self) -> Journal:
        found = Journal(str(self.state))
        found.load()
        return found


BEFORE = {"main": (OLD, 0o640)}
AFTER = {"main": (NEW, 0o640), "more": (MADE, 0o600)}


@pytest.fixture
def site() -> Iterator[Site]:
    """On a tmpfs, on which a sync takes no time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Site(Path(folder))


def test_apply_and_undo(site: Site) -> None:
    site.apply()
    assert site.look() == AFTER
    assert site.journal().state == APPLIED
    assert [entry.state() for entry in site.journal().entries()] == ["after", "after"]
    assert site.undo() == ["restored", "restored"]
    assert site.look() == BEFORE
    assert not site.made.parent.exists()
    assert site.journal().state is None
    assert os.listdir(site.state) == ["lock"]


def test_nobody_else_can_read_the_copies(site: Site) -> None:
    site.apply()
    assert site.state.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in site.state.iterdir())


def test_killed_while_applying(site: Site) -> None:
    """At each change: each file is as before or as after, and undo makes it as before."""
    steps, states = 0, set()
    for _ in before_each_change(site.again, site.apply):
        steps += 1
        found = {name: what for name, what in site.look().items() if "#tmp" not in name}
        assert found in (BEFORE, BEFORE | {"main": AFTER["main"]}, AFTER)
        states.add(site.journal().state)
        site.undo()
        assert site.look() == BEFORE
        assert site.journal().state is None
    assert states >= {None, APPLYING}
    assert steps > 20
    assert site.look() == AFTER  # the last run was not killed


def test_killed_while_undoing(site: Site) -> None:
    """Undo can be run again."""

    def prepare() -> None:
        site.again()
        site.apply()

    for _ in before_each_change(prepare, site.undo):
        site.undo()
        assert site.look() == BEFORE
        assert site.journal().state is None


def test_a_file_that_somebody_changed_elsewhere_keeps_that_change(site: Site) -> None:
    site.apply()
    site.main.write_bytes(NEW.replace(b"a = 1\n", b"x = 0\na = 1\n"))
    assert site.undo() == ["restored", "kept"]
    assert site.main.read_bytes() == b"x = 0\n" + OLD


def test_killed_while_keeping_other_changes(site: Site) -> None:

    def prepare() -> None:
        site.again()
        site.apply()
        site.main.write_bytes(b"x = 0\n" + NEW)

    for _ in before_each_change(prepare, site.undo):
        assert "conflict" not in site.undo()
        assert site.main.read_bytes() == b"x = 0\n" + OLD


@pytest.mark.parametrize(
    "now",
    [
        NEW.replace(b"ours = yes", b"ours = no"),
        NEW.replace(b"ours = yes\n", b""),
        NEW.replace(b"b = 2", b"b = 3"),
        b"",
    ],
)
def test_a_file_in_which_somebody_changed_our_lines_is_not_touched(site: Site, now: bytes) -> None:
    site.apply()
    site.main.write_bytes(now)
    entry = site.journal().entries()[0]
    if now == OLD:
        assert entry.state() == "before"
        return
    assert entry.state() == "changed" and not entry.can_restore()
    assert site.undo() == ["restored", "conflict"]
    assert site.main.read_bytes() == now
    assert site.journal().entries()[0].content("before") == read_as(OLD)


def read_as(data: bytes) -> Content:
    return Content(data, 0o640, (os.getuid(), os.getgid()))


def test_a_new_file_that_somebody_changed_is_not_removed(site: Site) -> None:
    site.apply()
    site.made.write_bytes(b"theirs\n")
    assert site.undo() == ["conflict", "restored"]
    assert site.made.read_bytes() == b"theirs\n"


def test_a_file_that_changes_between_plan_and_apply_is_not_changed(site: Site) -> None:
    journal = Journal(str(site.state))
    with journal.locked():
        journal.begin(site.changes())
        site.main.write_bytes(b"theirs\n")
        with pytest.raises(Conflict):
            journal.put("one")
    assert site.main.read_bytes() == b"theirs\n"


def _link(site: Site) -> None:
    site.main.rename(site.conf / "real")
    site.main.symlink_to("real")


def _two_names(site: Site) -> None:
    os.link(site.main, site.conf / "other")


def _writable(site: Site) -> None:
    site.main.chmod(0o666)


def _folder_open(site: Site) -> None:
    site.conf.chmod(0o777)


def _others_folder(site: Site) -> None:
    os.chown(site.conf, 12345, 12345)


def _others_file(site: Site) -> None:
    os.chown(site.main, 12345, 12345)


def _fifo(site: Site) -> None:
    site.main.unlink()
    os.mkfifo(site.main)


@pytest.mark.parametrize(
    "spoil",
    [_link, _two_names, _writable, _folder_open, _others_folder, _others_file, _fifo],
    ids=lambda function: function.__name__,
)
def test_what_is_not_safe_is_not_read(site: Site, spoil: Callable[[Site], None]) -> None:
    spoil(site)
    with pytest.raises(ConfigError):
        read(str(site.main))


@pytest.mark.parametrize(
    "spoil", [_link, _folder_open, _others_folder, _others_file], ids=lambda f: f.__name__
)
def test_what_becomes_unsafe_is_not_changed_back(site: Site, spoil: Callable[[Site], None]) -> None:
    site.apply()
    spoil(site)
    journal = site.journal()
    with pytest.raises(ConfigError):
        journal.restore(journal.entries()[0])
    assert site.main.read_bytes() == NEW


def test_copies_in_a_folder_of_somebody_else_are_not_used(site: Site) -> None:
    site.apply()
    os.chown(site.state, 12345, 12345)
    with pytest.raises(ConfigError):
        site.journal()


def test_a_damaged_copy_is_not_written_back(site: Site) -> None:
    site.apply()
    (site.state / "0.before").write_bytes(b"damaged")
    with pytest.raises(Damaged):
        site.undo()
    assert site.main.read_bytes() == NEW
    (site.state / "manifest.json").write_bytes(b"{")
    with pytest.raises(Damaged):
        site.journal()


def test_one_setup_at_a_time(site: Site) -> None:
    second = Journal(str(site.state)).locked()
    with Journal(str(site.state)).locked(), pytest.raises(TemporaryError, match="another"):
        second.__enter__()


def test_modes_and_owners_are_restored(site: Site) -> None:
    os.chown(site.main, 0, 12345)
    site.apply()
    assert site.main.stat().st_gid == 12345
    site.undo()
    found = site.main.stat()
    assert (found.st_gid, found.st_mode & 0o777) == (12345, 0o640)


def test_without() -> None:
    assert without(NEW, OLD, NEW) == OLD
    assert without(b"x\n" + NEW + b"y\n", OLD, NEW) == b"x\n" + OLD + b"y\n"
    assert without(OLD, OLD, NEW) is None
    # a replaced line, as postconf -e makes it
    old, new = b"a = 1\nt = lmtp\nb = 2\n", b"a = 1\nt = mailseal\nb = 2\n"
    assert without(new + b"c = 3\n", old, new) == old + b"c = 3\n"
    assert without(new.replace(b"mailseal", b"other"), old, new) is None
    assert without(NEW.replace(b"\n", b"\r\n"), OLD, NEW) is None


def test_a_missing_folder_has_no_file(tmp_path: Path) -> None:
    assert read(str(tmp_path / "no" / "file")) is None
    assert read(str(tmp_path / "file")) is None
    assert changes.read(str(tmp_path / "file")) is None
