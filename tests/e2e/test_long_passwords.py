# SPDX-License-Identifier: MIT
"""Dovecot passes the longest password and the longest user name that mailseal accepts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab, Pop3
from tests.lab.dovecot import installed_version, series
from tests.lab.place import REPOSITORY
from tests.lab.smtp import send_lmtp

USER = f"{'u' * 242}@example.org"
LONGEST = "p" * 255
MAIL = HEADERS + b"the tangerine is in the cellar\r\n"


def chains() -> list[str]:
    """With Lua, and in 2.3 also with checkpassword."""
    folder = os.path.join(REPOSITORY, "dovecot-conf", series(installed_version()))
    names = [name.removesuffix(".conf").removeprefix("auth-") for name in os.listdir(folder)]
    return sorted(name for name in names if name.startswith("behind-passwd-file"))


@pytest.fixture(scope="module", params=chains())
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab({USER: LONGEST}, auth=request.param) as made:
        yield made


def test_the_longest_name_and_password_open_the_mail(lab: Lab) -> None:
    assert len(USER) == 254
    assert send_lmtp(lab.lmtp, "eve@example.net", [USER], MAIL)[0][0] == 250
    with open(lab.stored(USER)[0], "rb") as stream:
        assert stream.read(7) == b"CRYPTED"
    with Imap(lab.imap, USER, LONGEST) as imap:
        assert imap.bodies()[0].endswith(MAIL)
    with Pop3(lab.pop3, USER, LONGEST) as pop3:
        assert pop3.mail(1).endswith(MAIL)


def test_no_command_sets_a_longer_one(lab: Lab) -> None:
    longer = LONGEST + "p"
    for command in ("passwd", "rewrap"):
        done = lab.mailseal(command, USER, stdin=f"{LONGEST}\n{longer}\n".encode())
        assert done.returncode == 64 and b"at most 255" in done.stderr
    with Imap(lab.imap, USER, LONGEST) as imap:
        assert imap.bodies()
