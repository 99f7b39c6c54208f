# SPDX-License-Identifier: MIT
"""doveadm, too, waits while names are exchanged on Btrfs and others, whatever it does."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.mails import HEADERS
from tests.e2e.test_existing_lock import SECRET, USER, exchanging, is_waited_for
from tests.lab import Imap, Lab
from tests.lab.imap import Refused
from tests.lab.process import wait_until

# Command, and the UIDs and flags afterwards; None: there is no folder any more.
COMMANDS = {
    "force-resync -u USER Sent": [b"1 ", b"2 ", b"3 "],
    "index -u USER Sent": [b"1 ", b"2 ", b"3 "],
    "flags add -u USER \\Flagged mailbox Sent uid 2": [b"1 ", b"2 \\Flagged", b"3 "],
    "expunge -u USER mailbox Sent uid 2": [b"1 ", b"3 "],
    "mailbox delete -u USER Sent": None,
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab({USER: SECRET}) as made:
        yield made


@pytest.mark.parametrize("command", COMMANDS)
def test_doveadm_waits_and_forgets_nothing(
    lab: Lab, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = lab.maildir(USER, "Sent")
    log = os.path.join(sent, "dovecot.index.log")
    with Imap(lab.imap, USER, SECRET) as imap:
        with contextlib.suppress(Refused):
            imap.command(b'DELETE "Sent"')  # of another test
        imap.command(b'CREATE "Sent"')
        for number in range(3):
            imap.append("Sent", HEADERS + b"%d\r\n" % number)
        imap.select("Sent")
        imap.command(b"UID FETCH 1:* (FLAGS)")
    with exchanging(lab, monkeypatch):
        for name in os.listdir(os.path.join(sent, "cur")):  # Dovecot must list the folder
            os.rename(os.path.join(sent, "cur", name), os.path.join(sent, "cur", f"{name}T"))
        words = [USER if word == "USER" else word for word in command.split()]
        doveadm = subprocess.Popen(
            ["doveadm", "-c", lab.dovecot.config, *words], stderr=subprocess.PIPE
        )
        try:
            wait_until(
                lambda: doveadm.poll() is not None or is_waited_for(log), "doveadm ends or waits"
            )
            assert doveadm.poll() is None, "doveadm has used the folder meanwhile"
        except BaseException:
            doveadm.kill()
            raise
    said = doveadm.communicate()[1]  # 2.4 may say that the index is up to date
    assert doveadm.returncode == 0, said
    expected = COMMANDS[command]
    if expected is None:
        assert not os.path.exists(sent)
        return
    with Imap(lab.imap, USER, SECRET) as imap:
        imap.select("Sent")
        answer = b"\n".join(imap.command(b"UID FETCH 1:* (UID FLAGS)"))
        for number, mail in enumerate(expected, 1):
            uid, _, flag = mail.partition(b" ")
            line = next(x for x in answer.splitlines() if x.startswith(b"* %d " % number))
            assert b"UID %s " % uid in line and flag in line and b"\\Deleted" in line, line
        assert answer.count(b" FETCH ") == len(expected)
