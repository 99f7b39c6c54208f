# SPDX-License-Identifier: MIT
"""Users whose userdb returns no home and no uid: Dovecot's mail_home and mail_uid apply."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mailseal import config as configuration
from mailseal.delivery.dovecot import settings
from mailseal.delivery.dovecot.userdb import DovecotUserdb
from mailseal.doveconf import Doveconf
from tests.lab.dovecot import installed_version, series
from tests.listener import serve, unix_listener

SITE = {"mail_path": "~/Maildir", "mail_home": "/srv/%d/%n", "mail_uid": "5000"}


def account_of(tmp_path: Path, answer: bytes, site: dict[str, str]) -> tuple[str, str | None, int]:
    """Home, Maildir and uid of alice@example.org, for which Dovecot's auth returns `answer`."""

    def auth(client: socket.socket) -> None:
        client.sendall(b"VERSION\t1\t2\n")
        for line in client.makefile("rb"):
            if line.startswith(b"USER"):
                client.sendall(b"USER\t1\talice@example.org%s\n" % answer)

    serve(unix_listener(str(tmp_path / "auth")), auth)
    text = f"dovecot: {{userdb_socket: {tmp_path}/auth, timeout: 5s}}"
    account = DovecotUserdb(configuration.parse(text), site).lookup("alice@example.org")
    assert account is not None
    return account.home, account.maildir, -1 if account.uid is None else account.uid


@pytest.mark.parametrize(
    ("answer", "site", "expected"),
    [
        (b"", SITE, ("/srv/example.org/alice", "/srv/example.org/alice/Maildir", 5000)),
        (b"\thome=/h\tuid=7", SITE, ("/h", "/h/Maildir", 7)),
        # The userdb returns the location; home and uid are still the site's.
        (
            b"\tmail=maildir:~/M",
            SITE,
            ("/srv/example.org/alice", "/srv/example.org/alice/M", 5000),
        ),
        (b"", {**SITE, "mail_home": "/srv/%{odd}"}, ("", None, 5000)),
        (b"", {**SITE, "mail_home": "/srv/./%n"}, ("/srv/alice", None, 5000)),
        (b"", {"mail_path": "~/Maildir"}, ("", None, -1)),
    ],
)
def test_home_and_uid(
    tmp_path: Path, answer: bytes, site: dict[str, str], expected: tuple[str, str | None, int]
) -> None:
    assert account_of(tmp_path, answer, site) == expected


def test_they_are_read_from_dovecots_settings(tmp_path: Path) -> None:
    """By the real doveconf, in the words of its version."""
    file = tmp_path / "dovecot.conf"
    if series(installed_version()) == "2.4":
        lines = (
            "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
            "protocols = imap lmtp\n"
            "mail_home = /srv/%{user | domain}/%{user | username}\nmail_uid = nobody\n"
        )
    else:
        lines = "protocols = imap lmtp\nmail_home = /srv/%d/%n\nmail_uid = nobody\n"
    file.write_text(lines)
    known = settings._known_of(Doveconf(["doveconf", "-c", str(file)]))
    assert (known["mail_home"], known["mail_uid"]) == ("/srv/%d/%n", "65534")
