# SPDX-License-Identifier: MIT
"""Mail is sealed for Dovecot's final user name (auth_username_format)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.process import logged
from tests.lab.smtp import send, send_lmtp

SENDER = "eve@example.net"
MAIL = b"Subject: tangerine\r\n\r\nin the cellar\r\n"
IN_24 = series(installed_version()) == "2.4"

_LOCAL_PART = "%{user | username | lower}" if IN_24 else "%Ln"
_AS_IT_COMES = "%{user}" if IN_24 else "%u"


@pytest.fixture(scope="module")
def without_domain() -> Iterator[Lab]:
    """Postfix passes alice@example.org, but the user database knows alice."""
    with Lab(
        {"alice": "password"},
        auth="behind-passwd-file",
        plain_users={"carol": "password"},
        dovecot_extra=f"auth_username_format = {_LOCAL_PART}\n",
    ) as made:
        yield made


def first_bytes(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(7)


def test_addresses_of_users_without_a_domain(without_domain: Lab) -> None:
    lab = without_domain
    send(lab.smtp, SENDER, ["Alice@example.org", "carol@example.org"], MAIL)
    lab.wait_delivered()
    assert [first_bytes(path) for path in lab.stored("alice")] == [b"CRYPTED"]
    assert [first_bytes(path) for path in lab.stored("carol")] == [b"Return-"]
    logged(lab, "action=sealed")
    with Imap(lab.imap, "alice", "password") as imap:
        assert [body.endswith(b"in the cellar\r\n") for body in imap.bodies()] == [True]
    ((code, text),) = send_lmtp(lab.lmtp, SENDER, ["ghost@example.org"], MAIL)
    assert (code, text[:5]) == (550, b"5.1.1")


@pytest.fixture(scope="module")
def case_sensitive() -> Iterator[Lab]:
    """For this Dovecot alice and Alice are two users; one of them is enrolled."""
    with Lab(
        {"alice@example.org": "password"},
        auth="behind-passwd-file",
        plain_users={"Alice@example.org": "other", "Carol@example.org": "password"},
        dovecot_extra=f"auth_username_format = {_AS_IT_COMES}\n",
    ) as made:
        yield made


def test_mail_for_a_name_in_another_case_is_deferred(case_sensitive: Lab) -> None:
    lab = case_sensitive
    assert send_lmtp(lab.lmtp, SENDER, ["Alice@example.org"], MAIL)[0][0] == 451
    assert lab.stored("Alice@example.org") == []
    assert lab.stored("alice@example.org") == []
    logged(lab, "auth_username_format must convert names to lower case")
    for user, first in (("alice@example.org", b"CRYPTED"), ("Carol@example.org", b"Return-")):
        assert send_lmtp(lab.lmtp, SENDER, [user], MAIL)[0][0] == 250
        assert [first_bytes(path) for path in lab.stored(user)] == [first]
