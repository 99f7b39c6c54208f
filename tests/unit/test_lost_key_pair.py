# SPDX-License-Identifier: MIT
"""Mail that is sealed to a key pair that a restore has lost: verify names it (docs/keys.md)."""

from __future__ import annotations

import os
from pathlib import Path

from mailseal.crypto import dcrypt
from mailseal.keys import opening
from tests.lab.clusters import Keys
from tests.lab.place import MAIL_UID
from tests.unit.agent_process import running
from tests.unit.test_database_backup import ALICE, dump, enroll, load, opens
from tests.unit.test_move_store import in_database


def test_verify_finds_it_until_a_newer_backup_is_restored(server: Keys, folder: Path) -> None:
    maildir = folder / "Maildir"
    for name in ("cur", "new", "tmp"):
        (maildir / name).mkdir(parents=True)
    options = in_database(server)
    options += f"delivery: {{userdb: template, home: {folder}, user: {MAIL_UID}}}\n"
    public = opening.rows(server.open())[1]
    newer = str(folder / "backup")
    with running(folder, options) as agent:

        def store(name: str) -> str:
            """Store a mail as it arrives; returns the id of the key, as it is shown."""
            key = public.lookup(ALICE)
            assert key is not None
            sealed = dcrypt.seal(key, b"Subject: x\r\n\r\nx\r\n")
            path = maildir / "cur" / f"{name}.host:2,"
            path.write_bytes(sealed)
            for each in (path, maildir, *maildir.iterdir()):
                os.chown(each, MAIL_UID, MAIL_UID)
            return key.key_id.hex()[:16]

        enroll(agent, ALICE)
        store("1")
        older = dump(server, folder)
        assert agent.run("rotate", ALICE, "--stdin", stdin=b"pw\n").returncode == 0
        lost = store("2")
        assert agent.run("backup", newer).returncode == 0
        agent.stop()
        load(server, older)
        agent.start()
        assert opens(agent, ALICE)
        done = agent.run("verify", "--all")
        said = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == 1, said
        assert f"is sealed to a key that is not in the keyring: {lost}" in said[0], said
        assert f"WARNING: 1 mails of {ALICE} are sealed to a key" in said[1], said
        assert f"`mailseal restore --force FILE {ALICE}`" in said[1], said
        done = agent.run("restore", "--force", newer, ALICE)
        assert done.returncode == 0, done.stderr
        done = agent.run("verify", "--all")
        assert (done.returncode, done.stderr) == (0, b""), done.stdout
