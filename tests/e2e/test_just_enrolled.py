# SPDX-License-Identifier: MIT
"""Users of a Sieve script who have just got a key: the kept answer of Dovecot's userdb is older."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

import pytest

from tests.lab import Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.place import MAIL_UID, LabError
from tests.lab.process import logged
from tests.lab.smtp import send, send_lmtp

SENDER = "eve@example.net"
USER = "scripted@example.org"
SECRET = "password"
MAIL = b"Subject: tangerine\r\n\r\nin the cellar\r\n"
LOGGED = {"2.3": "auth_debug = yes\n", "2.4": "log_debug = category=auth\n"}


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(
        {},
        auth=request.param,
        plain_users={USER: SECRET},
        dovecot_extra=LOGGED[series(installed_version())],
        # One worker has one cache, and its answers are kept as long as the test runs.
        config_extra={"delivery.workers": 1, "delivery.userdb_cache": "1h"},
    ) as made:
        home = made.home(USER)
        os.makedirs(home, exist_ok=True)
        script = os.path.join(home, ".dovecot.sieve")
        with open(script, "w", encoding="ascii") as stream:
            stream.write("keep;\n")
        for path in (os.path.dirname(home), home, script):
            os.chown(path, MAIL_UID, MAIL_UID)
        yield made


def first_bytes(lab: Lab) -> list[bytes]:
    found = []
    for path in lab.stored(USER):
        with open(path, "rb") as stream:
            found.append(stream.read(7))
    return found


def run(lab: Lab, *command: str) -> None:
    done = lab.mailseal(*command, USER, stdin=SECRET.encode() + b"\n")
    assert done.returncode == 0, done.stderr


def replies(lab: Lab) -> list[int]:
    return [code for code, _ in send_lmtp(lab.lmtp, SENDER, [USER], MAIL)]


@pytest.mark.parametrize("lab", ["behind-passwd-file"], indirect=True)
def test_mail_just_after_enrolling_and_rotating_does_not_wait(lab: Lab) -> None:
    """Dovecot is asked again, and seals."""
    for number, command in enumerate(("", "enroll", "rotate"), 1):
        if command:
            run(lab, command)
        assert replies(lab) == [250], command
        send(lab.smtp, SENDER, [USER], MAIL)
        lab.wait_delivered()
        assert len(lab.stored(USER)) == 2 * number
    assert "status=deferred" not in lab.log_text()
    logged(lab, f"to=<{USER}>, action=relayed, keyid=")
    kinds = first_bytes(lab)
    assert sorted(kinds) == [b"CRYPTED"] * 4 + [b"Return-"] * 2
    with Imap(lab.imap, USER, SECRET) as imap:
        assert [body.endswith(b"in the cellar\r\n") for body in imap.bodies()] == [True] * 6


@pytest.mark.parametrize("lab", ["passwd-file"], indirect=True)
def test_dovecot_is_not_asked_for_each_mail_that_it_would_not_seal(lab: Lab) -> None:
    """It does not use mailseal's userdb.  It is asked once for each new key."""

    marks = itertools.count(1)

    def lookups() -> int:
        # Dovecot's auth logs in order: when it has logged this one, it has logged all before it.
        mark = f"mark{next(marks)}@example.org"
        with contextlib.suppress(LabError):  # there is no such user
            lab.dovecot.doveadm("user", mark)
        logged(lab.dovecot, mark)
        lines = lab.dovecot.log_text().splitlines()
        return sum("master in: USER" in line and USER in line for line in lines)

    for command in (("enroll", "--unchecked"), ("rotate",)):
        run(lab, *command)
        before = lookups()
        for _ in range(5):
            assert replies(lab) == [451]
        assert lookups() == before + 1
    assert lab.stored(USER) == []
