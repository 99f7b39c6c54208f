# SPDX-License-Identifier: MIT
"""Mail in sdbox and mdbox is refused; the conversion in docs/sealing.md keeps all of it."""

from __future__ import annotations

import base64
import os
import re
import subprocess

import pytest

from tests.docker.page import commands
from tests.e2e.busy import Mailbox
from tests.e2e.existing import files, is_sealed, run
from tests.e2e.mails import of_size
from tests.lab import Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.place import REPOSITORY
from tests.lab.process import accepts, wait_until

USER, SECRET = "old@example.org", "password"
FOLDERS = ("INBOX", "Work", "Work/2024")
LANGUAGE = series(installed_version())
APART = {
    "2.3": "mail_attachment_dir = ~/apart\nmail_attachment_min_size = 1\n",
    "2.4": "mail_ext_attachment_path = ~/apart\nmail_ext_attachment_min_size = 1\n"
    "mail_ext_attachment {\n  fs posix {\n  }\n}\n",
}
LETTER = (
    b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n"
    b"--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
    b"Content-Disposition: attachment; filename=a\r\n\r\n"
    + base64.encodebytes(b"tangerine, cellar, " * 200).replace(b"\n", b"\r\n")
    + b"--b--\r\n"
)


def _settings(name: str) -> str:
    """Lines of docs/sealing.md for Dovecot's configuration."""
    with open(os.path.join(REPOSITORY, "docs", "sealing.md"), encoding="utf-8") as stream:
        found = re.search(
            rf"<!-- settings {name} -->\n +```\n(.*?)^ +```", stream.read(), re.S | re.M
        )
    assert found is not None, name
    return found[1]


def _location(lab: Lab, kind: str, path: str) -> str:
    if LANGUAGE == "2.3":
        return f"mail_location = {kind}:{path}:INDEXCACHE={lab.place.quick}/cache/%u\n"
    return f"mail_driver = {kind}\nmail_path = {path}\n"


def _do(lab: Lab, step: str) -> None:
    """The commands of docs/sealing.md, with the lab's configuration."""
    script = commands("do", LANGUAGE, [step], "sealing.md")
    script = re.sub(r"^doveadm ", f"doveadm -c {lab.dovecot.config} ", script, flags=re.M)
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _live(imap: Imap) -> None:
    for folder in FOLDERS[1:]:
        imap.command(b'CREATE "%s"' % folder.encode())
        imap.command(b'SUBSCRIBE "%s"' % folder.encode())
    for folder in FOLDERS:
        for number in range(1, 5):
            mail = LETTER if number == 3 else of_size(900 + number, newline=b"\r\n")
            imap.command(
                b'APPEND "%s" (\\Flagged Word%d) "0%d-Mar-2019 09:08:07 +0000" {%d}'
                % (folder.encode(), number, number, len(mail)),
                mail,
            )
    imap.select("INBOX")
    imap.command(b"STORE 2 +FLAGS (\\Deleted)")
    imap.command(b"EXPUNGE")


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
def test_dovecot_moves_it_to_a_maildir(kind: str) -> None:
    lab = Lab({}, auth="behind-passwd-file", plain_users={USER: SECRET})
    apart = APART[LANGUAGE] if kind == "mdbox" else ""
    before = _location(lab, kind, f"~/{kind}") + apart + _settings("separator")
    lab.dovecot.write_config(before)
    with lab:
        with Imap(lab.imap, USER, SECRET) as imap:
            _live(imap)
            refused = lab.mailseal("seal", USER)
            assert refused.returncode == 65
            assert b"hint: Dovecot can move it to one: docs/sealing.md" in refused.stderr
        _do(lab, "copy")
        # Clients are active in the meantime.
        with Imap(lab.imap, USER, SECRET) as imap:
            imap.select("INBOX")
            imap.command(b"STORE 2 +FLAGS (\\Answered Later)")
            imap.command(b"STORE 1 +FLAGS (\\Deleted)")
            imap.command(b"EXPUNGE")
            imap.append("Work", LETTER)
        box = Mailbox(lab, USER, SECRET, FOLDERS)
        with Imap(lab.imap, USER, SECRET) as imap:
            subscribed = sorted(imap.command(b'LSUB "" "*"')[:-1])
        assert bool(os.path.isdir(os.path.join(lab.home(USER), "apart"))) == bool(apart)
        lab.dovecot.write_config(_settings("nobody") + before)
        _do(lab, "last-copy")
        # `doveadm reload` does not wait
        wait_until(lambda: not accepts(lab.imap), "nobody can log in")
        lab.dovecot.write_config(_location(lab, "maildir", "~/Maildir") + _settings("separator"))
        lab.dovecot.doveadm("reload")
        wait_until(lambda: accepts(lab.imap), "users can log in again")
        box.require_as_remembered()
        with Imap(lab.imap, USER, SECRET) as imap:
            assert sorted(imap.command(b'LSUB "" "*"')[:-1]) == subscribed
        assert lab.mailseal("enroll", USER, stdin=SECRET.encode() + b"\n").returncode == 0
        run(lab, "seal", USER)
        found = files(lab, USER)
        assert len(found) == 11 and all(map(is_sealed, found))
        box.require_as_remembered()
