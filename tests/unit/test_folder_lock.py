# SPDX-License-Identifier: MIT
"""dovecot-uidlist.lock: held during the exchange where that is needed; its holder is waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from mailseal import durable
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import TemporaryError
from mailseal.mailbox import folder_lock, whole
from mailseal.mailbox.forms import Seal
from mailseal.mailbox.listing import Elsewhere

FORM = Seal(PrivateKey.generate("prime256v1").public)
MAIL = b"a: b\n\nc\n"
HOST = socket.gethostname()


@pytest.fixture(autouse=True)
def _needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Btrfs, whatever the tests run on."""
    monkeypatch.setattr(durable, "file_system", lambda path: 0x9123683E)


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    for folder in (tmp_path, tmp_path / ".Sent"):
        for part in ("cur", "new", "tmp"):
            (folder / part).mkdir(parents=True)
        for number in range(3):
            (folder / "cur" / f"170000000{number}.M1P1.host,S=12,W=14:2,S").write_bytes(
                b"a: b\n\nc\n"
            )
    return tmp_path


def convert(maildir: Path, control: str = "") -> whole.Report:
    with whole.held(str(maildir)):
        return whole.run(str(maildir), FORM, elsewhere=Elsewhere(control))


@pytest.mark.parametrize("control", ["", "control"])
def test_every_exchange_is_made_under_the_lock(
    maildir: Path, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Dovecot keeps its lists elsewhere."""
    lists = maildir / control if control else maildir
    inbox = lists / "INBOX" if control else lists
    for folder in (inbox, lists / ".Sent"):
        folder.mkdir(parents=True, exist_ok=True)
    holders = []
    exchange = durable.exchange

    def watched(one: str, other: str) -> None:
        folder = lists / ".Sent" if "/.Sent/" in other else inbox
        holders.append((folder / "dovecot-uidlist.lock").read_text())
        exchange(one, other)

    monkeypatch.setattr(durable, "exchange", watched)
    report = convert(maildir, str(lists) if control else "")
    assert report.nothing_left and report.tally.converted == 6
    assert holders == [f"{os.getpid()}:{HOST}"] * 6
    assert not list(maildir.rglob("*.lock"))


def test_while_dovecot_has_the_lock_nothing_is_exchanged(maildir: Path) -> None:
    lock = maildir / ".Sent" / "dovecot-uidlist.lock"
    lock.write_text(f"{os.getppid()}:{HOST}")
    thread = threading.Thread(target=convert, args=(maildir,))
    thread.start()
    thread.join(1)
    assert thread.is_alive()
    mails = sorted((maildir / ".Sent" / "cur").iterdir())
    assert [mail.read_bytes() for mail in mails] == [MAIL] * 3
    lock.unlink()
    thread.join()
    assert all(mail.read_bytes().startswith(b"CRYPTED") for mail in mails)


def test_a_lock_that_does_not_become_free_ends_the_run(
    maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "_TIMEOUT", 0.1)
    lock = maildir / ".Sent" / "dovecot-uidlist.lock"
    for holder in (f"{os.getppid()}:{HOST}", "1:another.host", ""):
        lock.write_text(holder)
        report = convert(maildir)
        assert "is not free" in report.stopped
        assert lock.read_text() == holder
        assert os.listdir(maildir / ".Sent" / "tmp") == []
    lock.unlink()
    assert convert(maildir).nothing_left


def test_a_lock_of_a_process_that_has_ended_is_removed(
    maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    lock = maildir / ".Sent" / "dovecot-uidlist.lock"
    for pid in (ended.pid, os.getpid()):  # and one of an earlier process with our number
        lock.write_text(f"{pid}:{HOST}")
        monkeypatch.setattr(folder_lock, "_YOUNG", 60.0)
        assert not folder_lock._is_left_over(str(lock))  # perhaps of another container
        monkeypatch.setattr(folder_lock, "_YOUNG", -1.0)
        with folder_lock.held(str(maildir / ".Sent" / "dovecot-uidlist")):
            assert lock.read_text() == f"{os.getpid()}:{HOST}"
        assert not lock.exists()


def test_a_lock_of_an_unknown_process_is_removed_when_it_is_old(
    maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = maildir / "dovecot-uidlist.lock"
    lock.write_text("")
    monkeypatch.setattr(folder_lock, "_STALE", -1.0)
    with folder_lock.held(str(maildir / "dovecot-uidlist")):
        assert lock.read_text()


def test_what_somebody_else_has_put_there_meanwhile_stays(maildir: Path) -> None:
    """Dovecot takes a lock away that it thinks left over; then it is Dovecot's."""
    lock = maildir / "dovecot-uidlist.lock"
    with folder_lock.held(str(maildir / "dovecot-uidlist")):
        lock.unlink()
        lock.write_text("Dovecot's")
    assert lock.read_text() == "Dovecot's"


def test_a_file_system_without_nameless_files(
    maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "_without_name", lambda folder: -1)
    with folder_lock.held(str(maildir / "dovecot-uidlist")):
        assert (maildir / "dovecot-uidlist.lock").read_text() == f"{os.getpid()}:{HOST}"
    assert convert(maildir).nothing_left


def test_a_folder_that_dovecot_has_not_been_in(tmp_path: Path) -> None:
    with folder_lock.held(str(tmp_path / "control" / ".Sent" / "dovecot-uidlist")):
        assert os.listdir(tmp_path) == []


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "dovecot-uidlist")
    with pytest.raises(TemporaryError, match="cannot lock"), folder_lock.held(path):
        pass


@pytest.mark.parametrize("kind", [0xEF53, 0x58465342])
def test_without_need_no_lock_is_taken(
    maildir: Path, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lock, Dovecot can lose changes that clients make at the same time."""
    monkeypatch.setattr(durable, "file_system", lambda path: kind)
    lock = maildir / "dovecot-uidlist.lock"
    lock.write_text(f"{os.getppid()}:{HOST}")
    report = convert(maildir)
    assert report.nothing_left and report.tally.converted == 6
    assert lock.exists()
