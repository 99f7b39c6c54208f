# SPDX-License-Identifier: MIT
"""Faults around encrypted index folders, with a real kernel and Dovecot."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from tests.lab import Imap, Lab, LabError
from tests.lab.place import MAIL_UID
from tests.lab.process import wait_until
from tests.lab.smtp import send
from tests.lab.volume import image_of

USERS = ("idle@example.org", "new@example.org", "newer@example.org")


@pytest.fixture(scope="module")
def lab(volume: str) -> Iterator[Lab]:
    extra = {"index.folder": f"{volume}/index", "index.lock_after": "2s"}
    with Lab(dict.fromkeys(USERS, "password"), config_extra=extra) as made:
        for user in USERS:
            mail = f"Subject: Rhabarber\r\nTo: {user}\r\n\r\nText\r\n".encode()
            send(made.smtp, "eve@example.net", [user], mail)
        made.wait_delivered()
        yield made


def _state(volume: str, user: str) -> State:
    found = Folders(f"{volume}/index", MAIL_UID).state(folder_name(user))
    return State.ABSENT if found is None else found[1]


def _subject(imap: Imap) -> bytes:
    assert imap.select() == 1
    (line,) = (line for line in imap.command(b"FETCH 1 (ENVELOPE)") if b"ENVELOPE" in line)
    return line.split(b'"')[3]


def test_anvil_cannot_be_asked(lab: Lab, volume: str) -> None:
    """A session without an open mailbox continues: unknown does not count as "no session"."""
    user = USERS[0]
    path = os.path.join(lab.dovecot.wanted.base_dir, "mailseal-anvil")
    with lab.login(user) as imap:
        os.rename(path, f"{path}.away")
        try:
            time.sleep(5)  # longer than lock_after and a sweep, and shorter than ten times
            assert _state(volume, user) is State.PRESENT
            assert _subject(imap) == b"Rhabarber"
        finally:
            os.rename(f"{path}.away", path)
    wait_until(lambda: _state(volume, user) is State.ABSENT, "the folder is locked")
    assert "Error" not in lab.dovecot.log_text()


def test_logins_while_the_file_system_is_frozen(lab: Lab, volume: str) -> None:
    """As a backup program does it.  Mail is listed with another index, and no key is left."""
    try:
        image_of(volume)
    except LabError:
        pytest.skip("no file system with fscrypt can be made here: MAILSEAL_VOLUME is set")
    subprocess.run(["fsfreeze", "--freeze", volume], check=True)
    try:
        for user in USERS[1:]:
            with lab.login(user) as imap:
                assert _subject(imap) == b"Rhabarber"
                status = lab.mailseal("status", user).stdout.decode()
                assert "does not answer" in status, status
            assert _state(volume, user) is State.ABSENT
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", volume], check=True)

    def has_folder() -> bool:
        with lab.login(USERS[2]) as imap:
            assert _subject(imap) == b"Rhabarber"
            return _state(volume, USERS[2]) is State.PRESENT

    wait_until(has_folder, "the folders are used again")

    def is_locked() -> bool:
        return all(_state(volume, user) is State.ABSENT for user in USERS)

    wait_until(is_locked, "the folders are locked")
    assert "Error" not in lab.dovecot.log_text()
