# SPDX-License-Identifier: MIT
"""What the tests of logins without the user's key share: users, a mail, and how it was stored."""

from __future__ import annotations

from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab
from tests.lab.dovecot import installed_version, series

SENDER = "eve@example.net"
PLAIN = "plain@example.org"
MAIL = HEADERS + b"the tangerine is in the cellar\r\n"
SERIES = series(installed_version())
DOORS = {
    "2.3": ("behind-passwd-file", "behind-passwd-file-checkpassword"),
    "2.4": ("behind-passwd-file",),
}[SERIES]
CLEAR = {b"From: <", b"Return-"}


def heads(lab: Lab, user: str, folder: str = "") -> set[bytes]:
    found = set()
    for path in lab.stored(user, folder):
        with open(path, "rb") as stream:
            found.add(stream.read(7))
    return found


def append(lab: Lab, user: str, password: str = "password") -> None:
    with Imap(lab.imap, user, password) as imap:
        imap.append("Sent", MAIL)
