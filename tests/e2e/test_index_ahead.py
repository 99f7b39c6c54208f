# SPDX-License-Identifier: MIT
"""After a login, the index is in memory before the client asks for it; with a real Dovecot."""

from __future__ import annotations

import os

from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from tests.lab import ALICE, Lab
from tests.lab.place import MAIL_UID
from tests.lab.process import wait_until
from tests.lab.smtp import send
from tests.unit.test_read_ahead import resident


def test_the_index_is_read_ahead(volume: str) -> None:
    extra = {"index.folder": f"{volume}/ahead", "index.lock_after": "1s"}
    with Lab({ALICE: "password"}, config_extra=extra) as lab:
        folders = Folders(f"{volume}/ahead", MAIL_UID)
        name = folder_name(ALICE)
        cache = os.path.join(folders.path(name), ".INBOX", "dovecot.index.cache")

        def state() -> State | None:
            return found[1] if (found := folders.state(name)) else None

        send(lab.smtp, "eve@example.net", [ALICE], b"Subject: Rhabarber\r\n\r\nText\r\n")
        lab.wait_delivered()
        with lab.login() as imap:
            imap.select()
            imap.command(b"FETCH 1 (ENVELOPE)")
        for _ in range(2):
            wait_until(lambda: state() is State.ABSENT, "the folder is locked")
            with lab.login() as imap:
                assert state() is State.PRESENT
                wait_until(lambda: resident(cache) == 1, "the cache is in memory")
                assert imap.select() == 1
                assert b"Rhabarber" in b"".join(imap.command(b"FETCH 1 (ENVELOPE)"))
        wait_until(lambda: state() is State.ABSENT, "the folder is locked")
        assert "read ahead" not in lab.log_text()
