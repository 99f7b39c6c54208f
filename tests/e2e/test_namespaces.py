# SPDX-License-Identifier: MIT
"""Mail in a second namespace of the user is sealed too; mail in other namespaces is listed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.e2e.busy import Mailbox
from tests.e2e.existing import is_sealed, run
from tests.e2e.mails import HEADERS
from tests.lab import Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.place import MAIL_UID

USER, SECRET = "old@example.org", "password"
FOLDERS = ("INBOX", "Archive/2023")
_INBOX = "namespace inbox {\n  separator = /\n}\n"
NAMESPACES = {
    "2.3": "namespace archive {\n  prefix = Archive/\n  separator = /\n"
    "  location = maildir:~/archive\n}\n"
    "namespace public {\n  type = public\n  prefix = Public/\n  separator = /\n"
    "  location = maildir:/var/mail/public\n}\n" + _INBOX,
    "2.4": "namespace archive {\n  prefix = Archive/\n  separator = /\n"
    "  mail_path = ~/archive\n}\n"
    "namespace public {\n  type = public\n  prefix = Public/\n  separator = /\n"
    "  mail_path = /var/mail/public\n}\n" + _INBOX,
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(
        {},
        auth="behind-passwd-file",
        plain_users={USER: SECRET},
        dovecot_extra=NAMESPACES[series(installed_version())],
    ) as made:
        yield made


def archive(lab: Lab) -> list[str]:
    """The files of the mails in the second namespace."""
    root = os.path.join(lab.home(USER), "archive")
    return [
        os.path.join(folder, name)
        for folder, _, names in os.walk(root)
        if os.path.basename(folder) in ("cur", "new")
        for name in names
    ]


def test_all_mail_of_the_user_is_sealed(lab: Lab) -> None:
    with Mailbox(lab, USER, SECRET, ()).login() as imap:
        imap.command(b'CREATE "Archive/2023"')
        for folder in FOLDERS:
            for number in range(3):
                imap.append(folder, HEADERS + b"%d\r\n" % number)
    box = Mailbox(lab, USER, SECRET, FOLDERS)
    assert len(archive(lab)) == 3
    password = SECRET.encode() + b"\n"
    # Unchecked, because this site has no ACLs for its public folders.
    assert lab.mailseal("enroll", "--unchecked", USER, stdin=password).returncode == 0
    (entry,) = run(lab, "seal", USER)
    assert entry["converted"] == 6
    assert all(map(is_sealed, archive(lab)))
    named = [path for path, _ in entry["clear_text"]]  # type: ignore[attr-defined]
    assert named == ["namespace Public/"]
    box.require_as_remembered()
    # A key pair that only mail in the archive uses is needed.
    for path in lab.stored(USER):
        os.unlink(path)
    found = json.loads(lab.mailseal("status", USER, "--json").stdout)
    key_id = found["users"][0]["keys"][0]["id"]
    assert lab.mailseal("rotate", USER, stdin=password).returncode == 0
    refused = lab.mailseal("drop-key", USER, key_id, stdin=password)
    assert refused.returncode == 64 and b"3 mails" in refused.stderr, refused
    refused = lab.mailseal("unenroll", USER)
    assert refused.returncode != 0 and b"3 " in refused.stderr, refused
    done = lab.mailseal("verify", USER, "--json")
    assert json.loads(done.stdout)["users"][0]["mails"] == 3
    # After resealing, the old key pair can be dropped.
    run(lab, "reseal", USER, "--stdin", stdin=password)
    kicked = lab.mailseal("drop-key", USER, key_id, "--kicked", stdin=password)
    assert kicked.returncode == 0, kicked
    run(lab, "unseal", USER, "--stdin", stdin=password)
    assert not any(map(is_sealed, archive(lab)))
    assert {os.stat(path).st_uid for path in archive(lab)} == {MAIL_UID}
