# SPDX-License-Identifier: MIT
"""Recovery methods and app passwords, with the keyring as the only password check; unenroll."""

from __future__ import annotations

import re

import pytest

from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab, Pop3, Refused
from tests.lab.smtp import send

TEXT = b"the tangerine is in the cellar\r\n"


@pytest.fixture
def with_mail(lab: Lab, user: str) -> str:
    send(lab.smtp, "eve@example.net", [user], HEADERS + TEXT)
    lab.wait_delivered()
    return user


def test_an_app_password_reads_mail_until_it_is_revoked(lab: Lab, with_mail: str) -> None:
    done = lab.mailseal("app-password", with_mail, "phone", stdin=b"password\n")
    code = done.stdout.decode().strip()
    slot = re.search(r"slot (\w+)", done.stderr.decode())
    assert slot is not None
    with Imap(lab.imap, with_mail, code) as imap, Pop3(lab.pop3, with_mail, code.upper()) as pop3:
        assert imap.bodies()[0].endswith(TEXT)
        assert pop3.mail(1).endswith(TEXT)
    assert lab.mailseal("revoke", with_mail, slot[1]).returncode == 0
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(lab.imap, with_mail, code)
    with Imap(lab.imap, with_mail, "password") as imap:
        assert imap.bodies()[0].endswith(TEXT)


def test_a_forgotten_password_and_a_recovery_code(lab: Lab, with_mail: str) -> None:
    code = lab.mailseal("recovery-code", with_mail, stdin=b"password\n").stdout
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(lab.imap, with_mail, code.decode().strip())
    assert lab.mailseal("recover", with_mail, stdin=code + b"remembered\n").returncode == 0
    with Imap(lab.imap, with_mail, "remembered") as imap:
        assert imap.bodies()[0].endswith(TEXT)
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(lab.imap, with_mail, "password")


def test_a_new_password_opens_old_mail(lab: Lab, with_mail: str) -> None:
    with open(lab.stored(with_mail)[0], "rb") as stream:
        before = stream.read()
    assert lab.mailseal("passwd", with_mail, stdin=b"password\nnext\n").returncode == 0
    with open(lab.stored(with_mail)[0], "rb") as stream:
        assert stream.read() == before
    with Imap(lab.imap, with_mail, "next") as imap:
        assert imap.bodies()[0].endswith(TEXT)
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(lab.imap, with_mail, "password")


def test_a_crash_of_the_agent_ends_only_sessions(lab: Lab, with_mail: str) -> None:
    with Imap(lab.imap, with_mail, "password") as imap:
        lab.restart_agent()
        assert imap.bodies()[0].endswith(TEXT), "an open connection has its key and needs no agent"
    with Imap(lab.imap, with_mail, "password") as imap:
        assert imap.bodies()[0].endswith(TEXT)


def test_a_lost_keyring_is_restored_from_a_backup(lab: Lab, with_mail: str) -> None:
    import os

    file = lab.place.path("keys.backup")
    assert lab.mailseal("backup", file, with_mail).returncode == 0
    proof = lab.mailseal("restore", "--check", file, with_mail, stdin=b"password\n")
    assert b"can be opened, 1 key pairs" in proof.stdout
    os.unlink(lab.place.path("state", "keys", f"{with_mail}.json"))
    with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
        Imap(lab.imap, with_mail, "password")
    assert lab.mailseal("restore", file, with_mail).returncode == 0
    with Imap(lab.imap, with_mail, "password") as imap:
        assert imap.bodies()[0].endswith(TEXT)


def test_unenroll_refuses_while_mail_is_sealed(lab: Lab, with_mail: str) -> None:
    done = lab.mailseal("unenroll", with_mail)
    assert done.returncode == 64
    assert f"1 mails of {with_mail} are sealed".encode() in done.stderr
    with Imap(lab.imap, with_mail, "password") as imap:
        imap.select()
        imap.command(b"STORE 1 +FLAGS (\\Deleted)")
        imap.command(b"EXPUNGE")
    assert lab.mailseal("unenroll", with_mail, "--kicked").returncode == 0
    with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
        Imap(lab.imap, with_mail, "password")
