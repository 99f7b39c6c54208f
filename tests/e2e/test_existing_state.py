# SPDX-License-Identifier: MIT
"""What Dovecot and clients store about existing mail stays valid when the mail is converted.

Quota, subscriptions, ACL files, and the state of a client that synchronizes: mbsync.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import existing
from tests.e2e.busy import Mailbox
from tests.e2e.existing import files, is_sealed, run
from tests.e2e.mails import HEADERS
from tests.lab import Lab
from tests.lab.dovecot import installed_version, series

SECRET = "password"
PASSWORD = SECRET.encode() + b"\n"
FOLDERS = ("INBOX", "Sent", "Work", "Work.2024", "Entw&APw-rfe")

QUOTA = {
    "2.3": """\
mail_plugins = $mail_plugins quota
protocol imap {
  mail_plugins = $mail_plugins quota
}
plugin {
  quota = count:By list
  quota_vsizes = yes
  quota_rule = *:storage=1G
  quota2 = maildir:By files
  quota2_rule = *:storage=1G
}
""",
    "2.4": """\
mail_plugins {
  quota = yes
}
protocol imap {
  mail_plugins {
    quota = yes
  }
}
quota "By list" {
  driver = count
  storage_size = 1G
}
quota "By files" {
  driver = maildir
  storage_size = 1G
}
""",
}

CONVERSIONS = {
    "seal": (),
    "reseal": ("--stdin",),
    "unseal": ("--stdin",),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    users = {f"old{number}@example.org": SECRET for number in range(1, 3)}
    extra = QUOTA[series(installed_version())]
    with Lab({}, auth="behind-passwd-file", plain_users=users, dovecot_extra=extra) as made:
        for user in users:
            existing.fill(made, user, SECRET, FOLDERS)
        yield made


def conversions(lab: Lab, user: str) -> Iterator[str]:
    """Run each command; each must have converted mail."""
    for command, options in CONVERSIONS.items():
        if command == "reseal":
            assert lab.mailseal("rotate", user, stdin=PASSWORD).returncode == 0
        (entry,) = run(lab, command, user, *options, stdin=PASSWORD if options else b"")
        assert int(str(entry["converted"])) > 20
        wanted = command != "unseal"
        assert {is_sealed(path) for path in files(lab, user) if os.path.getsize(path)} == {wanted}
        yield command


def test_quota_subscriptions_and_acl_files(lab: Lab) -> None:
    user = "old1@example.org"
    root = Path(lab.maildir(user))
    box = Mailbox(lab, user, SECRET, FOLDERS)

    def state() -> dict[str, bytes | list[bytes]]:
        found: dict[str, bytes | list[bytes]] = {**existing.beside(lab, user)}
        for path in (root / "maildirsize", *root.rglob("dovecot-keywords")):
            found[str(path)] = path.read_bytes()
        found["quota"] = lab.dovecot.doveadm("quota", "get", "-u", user)
        with box.login() as imap:
            found["subscribed"] = imap.command(b'LSUB "" "*"')[:-1]
            imap.select("Work")
            found["order"] = imap.command(b"UID SEARCH ALL")[:-1]
        return found

    lab.dovecot.doveadm("quota", "recalc", "-u", user)
    before = state()
    counted = re.findall(rb"By (list|files) +(STORAGE|MESSAGE) +([1-9]\d*)", bytes(before["quota"]))  # type: ignore[arg-type]
    assert len(counted) == 4 and len(before) > 7, before["quota"]
    for command in conversions(lab, user):
        assert state() == before, command
        lab.dovecot.doveadm("quota", "recalc", "-u", user)
        assert state()["quota"] == before["quota"], command
        box.require_as_remembered()


class Mbsync:
    """A copy of the mailbox that mbsync synchronizes."""

    def __init__(self, lab: Lab, user: str, folder: Path) -> None:
        self.mails = folder / "mails"
        self.mails.mkdir()
        self._rc = folder / "mbsyncrc"
        self._rc.write_text(
            f"IMAPAccount lab\nHost 127.0.0.1\nPort {lab.imap[1]}\nUser {user}\nPass {SECRET}\n"
            "SSLType None\nAuthMechs LOGIN\n\nIMAPStore far\nAccount lab\n\n"
            f"MaildirStore near\nPath {self.mails}/\nInbox {self.mails}/INBOX\n"
            "SubFolders Verbatim\n\nChannel all\nFar :far:\nNear :near:\nPatterns *\n"
            "Create Near\nExpunge Both\nSyncState *\nCopyArrivalDate yes\n"
        )
        self._rc.chmod(0o600)

    def sync(self) -> None:
        done = subprocess.run(
            ["mbsync", "-c", self._rc, "-a"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def files(self) -> dict[str, tuple[int, int, bytes]]:
        """Inode, time and content by name, which has the UID.  A new download has a new inode."""
        found = {}
        for path in self.mails.rglob("*"):
            if path.parent.name in ("cur", "new"):
                state = path.stat()
                name = str(path.relative_to(self.mails))
                found[name] = (state.st_ino, state.st_mtime_ns, path.read_bytes())
        return found


def test_the_state_of_mbsync_stays_valid(lab: Lab, tmp_path: Path) -> None:
    """No mail is downloaded twice, none removed; changes still go both ways."""
    user = "old2@example.org"
    box = Mailbox(lab, user, SECRET, FOLDERS)
    client = Mbsync(lab, user, tmp_path)
    client.sync()
    client.sync()  # the first synchronization removes \Recent, the second one has nothing to do
    before = client.files()
    # mbsync refuses mails without a header.
    assert box.mails() - 10 < len(before) <= box.mails()
    for number, command in enumerate(conversions(lab, user)):
        client.sync()
        assert client.files() == before, command
        # A mail arrives on the server, and a flag is set at the client.
        mail = HEADERS + b"the mail after %s\r\n" % command.encode()
        with box.login() as imap:
            imap.append("Work", mail)
        path = sorted((client.mails / "Sent").glob("*/*,U=*"))[number]
        base, _, flags = path.name.partition(":2,")
        flags = "".join(sorted({*flags, "R", "S"}))
        path.rename(client.mails / "Sent" / "cur" / f"{base}:2,{flags}")
        client.sync()
        with box.login() as imap:
            imap.select("Sent")
            answered = imap.command(b"SEARCH ANSWERED")[0].split()[2:]
            assert len(answered) == number + 1
        after = client.files()
        fresh = {name: state for name, state in after.items() if name not in before}
        bodies = sorted(body for _, _, body in fresh.values())
        assert len(after) == len(before) + 1
        assert sum(body.endswith(mail[-20:].replace(b"\r\n", b"\n")) for body in bodies) == 1
        before = after
