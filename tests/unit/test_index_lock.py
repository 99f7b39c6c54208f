# SPDX-License-Identifier: MIT
"""The lock of Dovecot's index: mails are exchanged under it where listings could miss them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal import durable, paths
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import TemporaryError
from mailseal.mailbox import index_lock, listing, whole
from mailseal.mailbox.forms import Seal
from mailseal.mailbox.listing import Elsewhere, Locks

FORM = Seal(PrivateKey.generate("prime256v1").public)
MAIL = b"a: b\n\nc\n"
BTRFS, EXT4 = 0x9123683E, 0xEF53
LOG = "dovecot.index.log"

HOLD = """
import fcntl, sys
log = open(sys.argv[1], "r+")
getattr(fcntl, sys.argv[2])(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Btrfs, whatever the tests run on."""
    monkeypatch.setattr(durable, "file_system", lambda path: BTRFS)


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    root = tmp_path / "Maildir"
    for folder in (root, root / ".Sent"):
        for part in ("cur", "new", "tmp"):
            (folder / part).mkdir(parents=True)
        for number in range(3):
            (folder / "cur" / f"170000000{number}.M1P1.host,S=12,W=14:2,S").write_bytes(MAIL)
        (folder / LOG).write_bytes(b"log")
    return root


def convert(maildir: Path, *indexes: Path) -> whole.Report:
    elsewhere = Elsewhere("", tuple(map(str, indexes or (maildir,))))
    with whole.held(str(maildir)):
        return whole.run(str(maildir), FORM, elsewhere=elsewhere)


@contextlib.contextmanager
def held_by_another(log: Path, how: str) -> Iterator[None]:
    """Another process holds the lock, as Dovecot does."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(log), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.communicate()


def is_locked(log: Path, how: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", HOLD, str(log), how], input=b"", capture_output=True
    )
    assert done.returncode == 0 or b"BlockingIOError" in done.stderr, done.stderr
    return done.returncode != 0


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("how", ["lockf", "flock"])
def test_every_exchange_is_made_under_the_lock(
    maildir: Path, how: str, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both kinds of lock that Dovecot can use, also where the index is elsewhere."""
    logs = {"/.Sent/": maildir / ".Sent" / LOG, "/": maildir / LOG}
    index = maildir
    if elsewhere:
        index = maildir.parent / "index"
        logs = {"/.Sent/": index / ".Sent" / LOG, "/": index / ".INBOX" / LOG}
        for log in logs.values():
            log.parent.mkdir(parents=True)
            log.write_bytes(b"log")
    seen = []
    exchange = durable.exchange

    def watched(one: str, other: str) -> None:
        seen.append(is_locked(logs["/.Sent/" if "/.Sent/" in other else "/"], how))
        assert not list(maildir.rglob("*.lock"))
        exchange(one, other)

    monkeypatch.setattr(durable, "exchange", watched)
    report = convert(maildir, index)
    assert report.nothing_left and report.tally.converted == 6
    assert seen == [True] * 6
    assert not any(is_locked(log, how) for log in logs.values())


@pytest.mark.parametrize("how", ["lockf", "flock"])
def test_while_dovecot_has_the_lock_nothing_is_exchanged(
    maildir: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()
    clock = types.SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: waits.set())
    monkeypatch.setattr(index_lock, "time", clock)
    thread = threading.Thread(target=convert, args=(maildir,))
    with held_by_another(maildir / ".Sent" / LOG, how):
        thread.start()
        assert waits.wait(60)
        mails = sorted((maildir / ".Sent" / "cur").iterdir())
        assert [mail.read_bytes() for mail in mails] == [MAIL] * 3
    thread.join()
    assert all(mail.read_bytes().startswith(b"CRYPTED") for mail in mails)


def test_a_log_that_dovecot_replaces_meanwhile(
    maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of the new one is taken."""
    log = maildir / LOG
    newer = log.with_name("dovecot.index.log.newlock")
    newer.write_bytes(b"newer")

    def replaced(path: str, found: os.stat_result) -> bool:
        if newer.exists():
            newer.rename(log)
        return paths.is_still(path, found)

    monkeypatch.setattr(index_lock, "is_still", replaced)
    with index_lock.held(str(log)) as held:
        assert held and log.stat().st_size == len(b"newer") and is_locked(log, "lockf")


def test_a_lock_that_does_not_become_free_ends_the_run(
    maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_lock, "_TIMEOUT", 0.1)
    with held_by_another(maildir / LOG, "lockf"):
        report = convert(maildir)
    assert "is not free" in report.stopped
    assert not list((maildir / "tmp").iterdir())
    assert convert(maildir).nothing_left


@pytest.mark.parametrize("missing", ["all", "one"])
def test_without_an_index_the_lock_of_the_list_is_taken(maildir: Path, missing: str) -> None:
    """Of two indexes, Dovecot can begin to use the one that does not exist yet."""
    logs = (str(maildir / "none" / LOG), *([str(maildir / LOG)] if missing == "one" else ()))
    with listing.kept_out(str(maildir), Locks(str(maildir / "dovecot-uidlist"), logs)):
        assert (maildir / "dovecot-uidlist.lock").exists()
        assert not is_locked(maildir / LOG, "lockf")
    assert not (maildir / "dovecot-uidlist.lock").exists()


def test_where_listings_are_complete_no_lock_is_taken(
    maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "file_system", lambda path: EXT4)
    with held_by_another(maildir / LOG, "lockf"):
        report = convert(maildir)
    assert report.nothing_left and report.tally.converted == 6


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_log_that_is_not_a_file(maildir: Path, kind: str) -> None:
    log = maildir / LOG
    log.unlink()
    if kind == "link":
        log.symlink_to(maildir / ".Sent" / LOG)
    else:
        os.mkfifo(log)
    with pytest.raises(TemporaryError), index_lock.held(str(log)):
        pass
