# SPDX-License-Identifier: MIT
"""Dovecot is told to store attachments in files of their own, after a user was enrolled."""

from __future__ import annotations

import base64

import pytest

from tests.e2e.keyless import DOORS, PLAIN, SENDER, SERIES
from tests.e2e.test_unsealable import save_in_every_way
from tests.lab import ALICE, Imap, Lab
from tests.lab.process import logged
from tests.lab.search import search_folder
from tests.lab.smtp import send_lmtp

WORD = "tangerine"
EVERY_WAY = {"imap", "doveadm", "lda", "lmtp"}
MAIL = (
    b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n"
    b"--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
    b"Content-Disposition: attachment; filename=a\r\n\r\n"
    + base64.encodebytes(b"tangerine, cellar, " * 20_000).replace(b"\n", b"\r\n")
    + b"--b--\r\n"
)


def _apart(kind: str, quick: str, where: str) -> str:
    """Dovecot's settings; where: in the protocol blocks too."""
    if SERIES == "2.3":
        name = "mail_attachment_dir = ~/apart"
        text = f"mail_location = {kind}:~/{kind}:INDEXCACHE={quick}/cache/%u\n"
        text += "mail_attachment_min_size = 1\n"
    else:
        name = "mail_ext_attachment_path = ~/apart"
        text = f"mail_driver = {kind}\nmail_path = ~/{kind}\nmail_ext_attachment_min_size = 1\n"
        text += "mail_ext_attachment {\n  fs posix {\n  }\n}\n"
    text += f"{name}\n"
    if where == "protocol":
        for protocol in ("imap", "lmtp", "lda", "doveadm"):
            text += f"protocol {protocol} {{\n  {name}\n}}\n"
    return text


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("kind", "where"), [("mdbox", "everywhere"), ("sdbox", "protocol")])
def test_attachments_of_enrolled_users_are_never_in_files_of_their_own(
    door: str, kind: str, where: str
) -> None:
    """2.4 seals them as a part of the mail; 2.3 refuses to save such a mail."""
    lab = Lab(auth=door, plain_users={PLAIN: "password"})
    lab.dovecot.write_config(_apart(kind, lab.place.quick, where))
    with lab:
        assert set(save_in_every_way(lab, PLAIN, "INBOX", MAIL)) == EVERY_WAY
        # The search finds what is stored apart, of the user who is not enrolled.
        assert any("/apart/" in found.path for found in search_folder(lab.home(PLAIN), [WORD]))

        saved = set(save_in_every_way(lab, ALICE, "INBOX", MAIL))
        assert saved == (EVERY_WAY if SERIES == "2.4" else set())
        assert set(save_in_every_way(lab, ALICE, "INBOX", b"Subject: y\r\n\r\nz\r\n")) == EVERY_WAY
        code = send_lmtp(lab.lmtp, SENDER, [ALICE], MAIL)[0][0]
        assert code == (250 if SERIES == "2.4" else 451), lab.log_text()
        assert search_folder(lab.home(ALICE), [WORD]) == []
        with Imap(lab.imap, ALICE, "password") as imap:
            ends = [body.endswith(MAIL[-1000:]) for body in imap.bodies()]
        assert sorted(ends) == [False] * 4 + [True] * (len(saved) + (code == 250))
        if SERIES == "2.3":
            logged(lab.dovecot, "/mail_crypt_cannot_seal_attachments/")

        enrolled = lab.mailseal("enroll", PLAIN, "--stdin", stdin=b"password\n")
        assert enrolled.returncode == 75 and b"attachments" in enrolled.stderr
