# SPDX-License-Identifier: MIT
"""mailseal behind an existing passwd-file: enrolled users are sealed, others as before."""

from __future__ import annotations

import os
import smtplib
import socket

import pytest

from tests.e2e.mails import HEADERS
from tests.lab import ALICE, Imap, Lab, Pop3, Refused
from tests.lab.search import search_folder
from tests.lab.smtp import send, send_lmtp

SENDER = "eve@example.net"
PLAIN = "plain@example.org"
MAIL = HEADERS + b"the tangerine is in the cellar\r\n"


def starts(lab: Lab, user: str, folder: str = "") -> list[bytes]:
    found = []
    for path in lab.stored(user, folder):
        with open(path, "rb") as stream:
            found.append(stream.read(7))
    return found


def test_one_mail_to_both_kinds(behind_lab: Lab) -> None:
    send(behind_lab.smtp, SENDER, [ALICE, PLAIN], MAIL)
    behind_lab.wait_delivered()
    assert starts(behind_lab, ALICE) == [b"CRYPTED"]
    assert starts(behind_lab, PLAIN) == [b"Return-"]
    for user in (ALICE, PLAIN):
        with Imap(behind_lab.imap, user, "password") as imap:
            assert imap.bodies()[-1].endswith(MAIL[-20:])
            imap.append("Sent", MAIL)
            assert imap.bodies("Sent") == [MAIL]
        with Pop3(behind_lab.pop3, user, "password") as pop3:
            assert pop3.mail(1).endswith(MAIL[-20:])
    assert starts(behind_lab, ALICE, "Sent") == [b"CRYPTED"]
    assert starts(behind_lab, PLAIN, "Sent") == [b"From: <"]


@pytest.mark.parametrize("user", [ALICE, PLAIN, "ghost@example.org"])
def test_a_wrong_password_is_refused(behind_lab: Lab, user: str) -> None:
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(behind_lab.imap, user, "wrong")


def test_an_enrolled_user_must_be_in_the_passwd_file(behind_lab: Lab) -> None:
    user = "removed@example.org"
    behind_lab.add_user(user)
    del behind_lab.users[user]
    behind_lab.dovecot.write_users({**behind_lab.users, **behind_lab.options.plain_users})
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(behind_lab.imap, user, "password")
    ((code, text),) = send_lmtp(behind_lab.lmtp, SENDER, [user], MAIL)
    assert (code, text[:5]) == (550, b"5.1.1")
    assert not os.path.exists(behind_lab.home(user))


def test_agent_down_is_a_temporary_failure_for_the_enrolled_only(behind_lab: Lab) -> None:
    behind_lab.stop_agent()
    try:
        with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
            Imap(behind_lab.imap, ALICE, "password")
        with Imap(behind_lab.imap, PLAIN, "password"):
            pass
        for user in (ALICE, PLAIN):
            with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
                Imap(behind_lab.imap, user, "wrong")
    finally:
        behind_lab.start_agent()
    with Imap(behind_lab.imap, ALICE, "password"):
        pass


def test_a_password_that_only_the_passwd_file_accepts_is_a_temporary_failure(
    behind_lab: Lab,
) -> None:
    user = "changed@example.org"
    behind_lab.add_user(user)
    behind_lab.dovecot.write_users(
        {**behind_lab.users, **behind_lab.options.plain_users, user: "changed behind its back"}
    )
    with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
        Imap(behind_lab.imap, user, "changed behind its back")
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(behind_lab.imap, user, "password")


def test_relayed_mail_of_an_enrolled_user_is_sealed_by_dovecot(behind_lab: Lab) -> None:
    """Dovecot's own LMTP gets the public key from the userdbs."""
    user = "relayed@example.org"
    behind_lab.add_user(user)
    mail = HEADERS.replace(b"a mail", b"marmalade") + b"the tangerine is in the cellar\r\n"
    with smtplib.LMTP(local_hostname="client.example.net") as client:
        client.sock = socket.socket(socket.AF_UNIX)
        client.sock.connect(behind_lab.dovecot.lmtp_socket)
        client.getreply()
        client.ehlo()
        client.docmd("MAIL", f"FROM:<{SENDER}>")
        assert client.docmd("RCPT", f"TO:<{user}>")[0] == 250
        client.docmd("DATA")
        client.send(mail + b".\r\n")
        assert client.getreply()[0] == 250
    words = ["marmalade", "tangerine"]
    assert starts(behind_lab, user) == [b"CRYPTED"]
    assert search_folder(behind_lab.home(user), words) == []
    with Imap(behind_lab.imap, user, "password") as imap:
        assert imap.bodies()[0].endswith(mail)
        imap.command(b"FETCH 1 ENVELOPE")
    # the search finds it where it is permitted: in the index cache on tmpfs
    assert search_folder(behind_lab.place.quick, words) != []
