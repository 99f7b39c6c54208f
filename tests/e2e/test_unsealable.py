# SPDX-License-Identifier: MIT
"""Formats that mail_crypt cannot seal: no program can save mail of enrolled users there.

This is mbox, in Dovecot's settings or in a userdb field.
"""

from __future__ import annotations

import contextlib
import smtplib
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import ALICE, Imap, Lab, LabError, Refused
from tests.lab.dovecot import installed_version, series
from tests.lab.process import logged
from tests.lab.search import files_with
from tests.lab.smtp import send_lmtp

OWN = "own@example.org"
SENDER = "eve@example.net"
PLAIN = "plain@example.org"
MAIL = b"Subject: tangerine\r\n\r\nin the cellar\r\n"
SERIES = series(installed_version())
DOORS = {
    "2.3": ("behind-passwd-file", "behind-passwd-file-checkpassword"),
    "2.4": ("behind-passwd-file",),
}[SERIES]
LDA = "/usr/lib/dovecot/dovecot-lda"
EVERYWHERE = {
    "2.3": "mail_location = mbox:~/mail:INDEX=MEMORY\n",
    "2.4": "mail_driver = mbox\nmail_path = ~/mail\n",
}[SERIES]
ARCHIVE = {
    "2.3": "namespace archive {\n  prefix = Archive/\n  separator = /\n"
    "  location = mbox:~/archive:INDEX=MEMORY\n}\nnamespace inbox {\n  separator = /\n}\n",
    "2.4": "namespace archive {\n  prefix = Archive/\n  separator = /\n"
    "  mail_driver = mbox\n  mail_path = ~/archive\n}\nnamespace inbox {\n  separator = /\n}\n",
}[SERIES]
_SETTINGS = {"everywhere": (EVERYWHERE, "INBOX"), "a namespace": (ARCHIVE, "Archive/2024")}
A_MAILDIR = {
    "2.3": "userdb_mail=maildir:~/Maildir:INDEX=MEMORY",
    "2.4": "userdb_mail_driver=maildir userdb_mail_path=~/Maildir",
}[SERIES]
FIELDS = {
    "2.3": ["userdb_mail=mbox:~/mail", "userdb_mail_location=mbox:~/mail"],
    "2.4": ["userdb_mail_driver=mbox"],
}[SERIES]


@pytest.fixture(scope="module", params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def lda(lab: Lab, user: str, folder: str, mail: bytes) -> int:
    command = [LDA, "-c", lab.dovecot.config, "-o", "lda_mailbox_autocreate=yes"]
    command += ["-d", user, "-f", SENDER, "-m", folder]
    return subprocess.run(command, input=mail, capture_output=True).returncode


def save_in_every_way(lab: Lab, user: str, folder: str, mail: bytes = MAIL) -> list[str]:
    """Save with all programs; returns those that report success."""
    done = []
    with contextlib.suppress(Refused):
        with Imap(lab.imap, user, "password") as imap:
            if folder != "INBOX":
                imap.command(b"CREATE " + folder.encode())
            imap.append(folder, mail)
        done.append("imap")
    with contextlib.suppress(LabError):
        lab.dovecot.doveadm("save", "-u", user, "-m", folder, stdin=mail)
        done.append("doveadm")
    if lda(lab, user, folder, mail) == 0:
        done.append("lda")
    if folder == "INBOX":
        with contextlib.suppress(smtplib.SMTPServerDisconnected):
            if send_lmtp((lab.dovecot.lmtp_socket, 0), SENDER, [user], mail)[0][0] == 250:
                done.append("lmtp")
    return done


@pytest.mark.parametrize("where", _SETTINGS)
def test_mbox_in_dovecots_own_settings(door: str, where: str) -> None:
    text, folder = _SETTINGS[where]
    users = {PLAIN: "password", OWN: "password"}
    with Lab(auth=door, plain_users=users, dovecot_extra=text) as lab:
        lab.dovecot.write_users({**users, **lab.users}, {OWN: A_MAILDIR})
        assert save_in_every_way(lab, ALICE, folder) == []
        assert files_with(lab.home(ALICE), b"tangerine") == []
        logged(lab.dovecot, "mail_crypt_cannot_seal_mbox")
        enrolled = lab.mailseal("enroll", PLAIN, "--stdin", stdin=b"password\n")
        assert enrolled.returncode == 75 and b"which mail_crypt cannot seal" in enrolled.stderr
        assert b"hint: change Dovecot's settings" in enrolled.stderr
        assert lab.mailseal("status", PLAIN).returncode == 67
        done = save_in_every_way(lab, PLAIN, folder)
        assert set(done) >= {"imap", "doveadm", "lda"}
        with Imap(lab.imap, PLAIN, "password") as imap:
            assert len(imap.bodies(folder)) == len(done)
        if where == "everywhere":
            enrolled = lab.mailseal("enroll", OWN, "--stdin", stdin=b"password\n")
            assert enrolled.returncode == 0, enrolled.stderr
            assert set(save_in_every_way(lab, OWN, folder)) == {"imap", "doveadm", "lda", "lmtp"}
            assert files_with(lab.home(OWN), b"tangerine") == []
        else:
            with lab.login() as imap:
                imap.append("INBOX", MAIL)
                assert imap.bodies("INBOX") == [MAIL]
            assert files_with(lab.home(ALICE), b"tangerine") == []


@pytest.fixture(scope="module")
def lab(door: str) -> Iterator[Lab]:
    with Lab(auth=door, plain_users={PLAIN: "password"}) as made:
        yield made


@pytest.mark.parametrize("field", FIELDS)
def test_mbox_in_a_userdb_field(lab: Lab, field: str) -> None:
    """Also without a login, where no key is asked for."""
    users = {**lab.users, **lab.options.plain_users}
    lab.dovecot.write_users(users, dict.fromkeys(users, field))
    try:
        assert save_in_every_way(lab, ALICE, "INBOX") == []
        assert files_with(lab.home(ALICE), b"tangerine") == []
        logged(lab, "may turn sealing off")
        assert set(save_in_every_way(lab, PLAIN, "INBOX")) >= {"imap", "doveadm", "lda"}
    finally:
        lab.dovecot.write_users(users)
