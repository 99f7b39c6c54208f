# SPDX-License-Identifier: MIT
"""Deliveries need no key agent, only the local store of public keys."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab import Imap, Lab
from tests.lab.place import MAIL_UID
from tests.lab.process import logged
from tests.lab.smtp import send

SENDER = "eve@example.net"
ALICE, SCRIPTED, PLAIN = (f"{name}@example.org" for name in ("alice", "scripted", "plain"))
MAIL = b"Subject: tangerine\r\n\r\nin the cellar\r\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(
        dict.fromkeys((ALICE, SCRIPTED), "password"),
        auth="behind-passwd-file",
        plain_users={PLAIN: "password"},
    ) as made:
        os.makedirs(made.home(SCRIPTED), exist_ok=True)
        script = os.path.join(made.home(SCRIPTED), ".dovecot.sieve")
        with open(script, "w", encoding="ascii") as stream:
            stream.write("keep;\n")
        for path in (os.path.dirname(made.home(SCRIPTED)), made.home(SCRIPTED), script):
            os.chown(path, MAIL_UID, MAIL_UID)
        yield made


def first_bytes(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(7)


def test_mail_while_the_agent_is_down(lab: Lab) -> None:
    """No lookup is cached, because there was no mail; all users get mail as before."""
    lab.stop_agent()
    try:
        send(lab.smtp, SENDER, [ALICE, SCRIPTED, PLAIN], MAIL)
        lab.wait_delivered()
        for user, first in ((ALICE, b"CRYPTED"), (SCRIPTED, b"CRYPTED"), (PLAIN, b"Return-")):
            assert [first_bytes(path) for path in lab.stored(user)] == [first], user
        logged(lab, f"to=<{ALICE}>, action=sealed")
        logged(lab, f"to=<{SCRIPTED}>, action=relayed, keyid=")
        logged(lab, f"to=<{PLAIN}>, action=clear")
    finally:
        lab.start_agent()
    for user in (ALICE, SCRIPTED, PLAIN):
        with Imap(lab.imap, user, "password") as imap:
            assert [body.endswith(b"in the cellar\r\n") for body in imap.bodies()] == [True]
