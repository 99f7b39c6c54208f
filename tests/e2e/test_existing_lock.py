# SPDX-License-Identifier: MIT
"""While names are exchanged on Btrfs and others, a real Dovecot waits and forgets nothing."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from mailseal import durable
from mailseal.mailbox.folders import Folder
from mailseal.mailbox.listing import Elsewhere, kept_out
from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab
from tests.lab.process import wait_until

USER, SECRET = "alice@example.org", "password"
BTRFS = 0x9123683E


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab({USER: SECRET}) as made:
        yield made


@pytest.fixture
def imap(lab: Lab) -> Iterator[Imap]:
    with Imap(lab.imap, USER, SECRET) as made:
        made.command(b'CREATE "Sent"')
        for number in range(3):
            made.append("Sent", HEADERS + b"%d\r\n" % number)
        made.select("Sent")
        made.command(b"UID FETCH 1:* (FLAGS)")
        yield made
        made.command(b"CLOSE")
        made.command(b'DELETE "Sent"')


@contextlib.contextmanager
def exchanging(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What holds while mails of the folder Sent are exchanged on Btrfs."""
    monkeypatch.setattr(durable, "file_system", lambda path: BTRFS)
    root, sent = lab.maildir(USER), lab.maildir(USER, "Sent")
    locks = Elsewhere("", (root,)).locks(Folder(sent, "Sent"), root)
    with kept_out(sent, locks):
        yield


def is_waited_for(path: str) -> bool:
    """Whether a process waits for a lock of this file: proc(5), /proc/locks."""
    inode = f":{os.stat(path).st_ino}"
    with open("/proc/locks", encoding="ascii") as stream:
        return any(
            words[1] == "->" and words[6].endswith(inode) for words in map(str.split, stream)
        )


def require_to_wait(lab: Lab, thread: threading.Thread) -> None:
    log = os.path.join(lab.maildir(USER, "Sent"), "dovecot.index.log")
    thread.start()
    wait_until(lambda: not thread.is_alive() or is_waited_for(log), "Dovecot has answered or waits")
    assert thread.is_alive(), "Dovecot has used the folder meanwhile"


def test_dovecot_does_not_list_the_folder(
    lab: Lab, imap: Imap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when it searches a mail that was renamed: then it lists without its own lock."""
    cur = os.path.join(lab.maildir(USER, "Sent"), "cur")
    fetch = threading.Thread(target=imap.command, args=(b"FETCH 1 BODY.PEEK[]",))
    with exchanging(lab, monkeypatch):
        for name in os.listdir(cur):
            os.rename(os.path.join(cur, name), os.path.join(cur, f"{name}T"))
        require_to_wait(lab, fetch)
    fetch.join()
    answer = b"\n".join(imap.command(b"FETCH 1:* (UID FLAGS)"))
    assert answer.count(b"\\Deleted") == 3 and b"* 3 FETCH (UID 3 " in answer


@pytest.mark.parametrize(
    ("command", "names"),
    [(b"STORE 1 FLAGS (\\Flagged)", [":2,", ":2,", ":2,F"]), (b"MOVE 1 INBOX", [":2,", ":2,"])],
)
def test_no_change_of_a_client_is_lost(
    lab: Lab, imap: Imap, command: bytes, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits, and is made as soon as the names are exchanged."""
    cur = os.path.join(lab.maildir(USER, "Sent"), "cur")
    change = threading.Thread(target=imap.command, args=(command,))
    with exchanging(lab, monkeypatch):
        require_to_wait(lab, change)
    change.join()
    assert sorted(name[name.index(":") :] for name in os.listdir(cur)) == names
