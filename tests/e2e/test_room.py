# SPDX-License-Identifier: MIT
"""A login with the largest number of key pairs works with the real Dovecot, also for the oldest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.keys import backup as backup_format
from tests.e2e.mails import HEADERS
from tests.lab import ALICE, Imap, Lab, Pop3, Refused
from tests.lab.dovecot import installed_version, series
from tests.lab.process import logged
from tests.lab.smtp import send

PASSWORD = b"password\n"
OLDEST = HEADERS + b"sealed to the oldest key\r\n"
# 2.4 has only one way to ask the agent: Lua.
WAYS = {"2.3": ("mailseal-only", "mailseal-only-checkpassword"), "2.4": ("mailseal-only",)}


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
@pytest.mark.parametrize("auth", WAYS[series(installed_version())])
def test_the_largest_permitted_number_of_pairs(auth: str, curve: str) -> None:
    with Lab(auth=auth, config_extra={"keys.curve": curve}) as lab:
        send(lab.smtp, "eve@example.net", [ALICE], OLDEST)
        lab.wait_delivered()
        room = json.loads(lab.mailseal("status", ALICE, "--json").stdout)["users"][0]["room"]
        assert room >= 10
        for _ in range(room):
            done = lab.mailseal("rotate", ALICE, stdin=PASSWORD)
            assert done.returncode == 0, done.stderr
        assert b"0 more key pairs fit" in lab.mailseal("status", ALICE).stdout
        with Imap(lab.imap, ALICE, "password") as imap:
            assert imap.bodies()[0].endswith(b"sealed to the oldest key\r\n")
            imap.append("Sent", HEADERS)
        with Pop3(lab.pop3, ALICE, "password") as pop3:
            assert pop3.mail(1).endswith(b"sealed to the oldest key\r\n")
        done = lab.mailseal("rotate", ALICE, stdin=PASSWORD)
        assert done.returncode == 64
        assert b"do not fit" in done.stderr and b"drop-key" in done.stderr
        assert "sent us too long line" not in lab.log_text()


@pytest.fixture
def doveadm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let `mailseal` run doveadm with the lab's Dovecot, not with that of /etc/dovecot."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    yield tmp_path / "doveadm"


def test_a_key_pair_is_removed_if_no_mail_needs_it(doveadm: Path) -> None:
    with Lab() as lab:
        doveadm.write_text(f'#!/bin/sh\nexec /usr/bin/doveadm -c {lab.dovecot.config} "$@"\n')
        doveadm.chmod(0o755)
        (old,) = json.loads(lab.mailseal("status", ALICE, "--json").stdout)["users"][0]["keys"]
        assert lab.mailseal("drop-key", ALICE, old["id"], stdin=PASSWORD).returncode == 64
        send(lab.smtp, "eve@example.net", [ALICE], OLDEST)
        lab.wait_delivered()
        from_before = Imap(lab.imap, ALICE, "password")
        assert lab.mailseal("rotate", ALICE, stdin=PASSWORD).returncode == 0
        send(lab.smtp, "eve@example.net", [ALICE], HEADERS + b"sealed to the new key\r\n")
        lab.wait_delivered()
        done = lab.mailseal("drop-key", ALICE, old["id"][:16], stdin=PASSWORD)
        assert done.returncode == 64 and b"1 mails are sealed with this key pair" in done.stderr
        os.unlink(lab.stored(ALICE)[0])
        # A session from before the rotation has only the old key.
        from_before.append("Sent", HEADERS)
        done = lab.mailseal("drop-key", ALICE, old["id"], stdin=PASSWORD)
        assert done.returncode == 64 and b"1 mails are sealed with this key pair" in done.stderr
        os.unlink(lab.stored(ALICE, "Sent")[0])
        done = lab.mailseal("drop-key", ALICE, old["id"], stdin=b"wrong\n")
        assert done.returncode == 77
        done = lab.mailseal("drop-key", ALICE, old["id"], stdin=PASSWORD)
        assert done.returncode == 0, done.stderr
        with pytest.raises(Refused):
            from_before.append("Sent", HEADERS)
        (kept,) = json.loads(lab.mailseal("status", ALICE, "--json").stdout)["users"][0]["keys"]
        assert kept["id"] != old["id"]
        assert lab.inbox()[0].endswith(b"sealed to the new key\r\n")
        send(lab.smtp, "eve@example.net", [ALICE], HEADERS)
        lab.wait_delivered()
        assert len(lab.inbox()) == 2


def test_a_key_pair_is_kept_if_sessions_cannot_be_ended(doveadm: Path) -> None:
    with Lab() as lab:
        doveadm.write_text("#!/bin/sh\nexit 75\n")
        doveadm.chmod(0o755)
        assert lab.inbox() == []  # makes the mailbox
        (old,) = json.loads(lab.mailseal("status", ALICE, "--json").stdout)["users"][0]["keys"]
        assert lab.mailseal("rotate", ALICE, stdin=PASSWORD).returncode == 0
        done = lab.mailseal("drop-key", ALICE, old["id"], stdin=PASSWORD)
        assert done.returncode == 75 and b"--kicked" in done.stderr
        assert lab.inbox() == []
        assert (
            lab.mailseal("drop-key", ALICE, old["id"], "--kicked", stdin=PASSWORD).returncode == 0
        )


def test_a_login_that_dovecot_would_not_take_is_temporary_and_logged(tmp_path: Path) -> None:
    """A keyring with more key pairs than this version makes."""
    with Lab() as lab:
        file = tmp_path / "backup"
        assert lab.mailseal("backup", str(file), ALICE).returncode == 0
        opened = backup_format.parse(file.read_bytes())[ALICE].unlock(b"password")
        while len(opened.keys) < 40:
            opened.add_key("prime256v1", now=1)
        file.write_bytes(backup_format.encode({ALICE: opened.keyring.encode()}, created=1))
        done = lab.mailseal("restore", "--force", str(file))
        assert done.returncode == 0, done.stderr
        with pytest.raises(Refused, match="UNAVAILABLE"):
            Imap(lab.imap, ALICE, "password")
        logged(lab, "40 key pairs do not fit into a login of Dovecot")


def test_unenroll_ends_sessions_that_would_continue_to_seal(doveadm: Path) -> None:
    """Mail that such a session saves after the keys are removed could never be read."""
    with Lab(auth="behind-passwd-file") as lab:
        doveadm.write_text(f'#!/bin/sh\nexec /usr/bin/doveadm -c {lab.dovecot.config} "$@"\n')
        doveadm.chmod(0o755)
        session = Imap(lab.imap, ALICE, "password")
        assert session.bodies() == []
        done = lab.mailseal("unenroll", ALICE)
        assert done.returncode == 0, done.stderr
        with pytest.raises((Refused, OSError)):
            session.append("Sent", OLDEST)
        with Imap(lab.imap, ALICE, "password") as imap:
            imap.append("Sent", OLDEST)
            assert imap.bodies("Sent") == [OLDEST]
        doveadm.write_text("#!/bin/sh\nexit 75\n")
        lab.add_user(ALICE)
        done = lab.mailseal("unenroll", ALICE)
        assert done.returncode == 75 and b"--kicked" in done.stderr
        assert lab.mailseal("status", ALICE).returncode == 0
