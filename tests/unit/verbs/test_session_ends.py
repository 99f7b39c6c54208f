# SPDX-License-Identifier: MIT
"""What ends a session, and what does not."""

from __future__ import annotations

import pytest

from tests.unit.verbs.world import USER, World


def test_a_wrong_password_opens_no_session_and_ends_none(enrolled: World) -> None:
    assert enrolled.login(b"wrong") == "wrong"
    assert len(enrolled.sessions) == 0
    enrolled.login(b"pw")
    assert enrolled.login(b"wrong") == "wrong"
    assert len(enrolled.sessions) == 1
    enrolled.derivations = 0
    assert enrolled.login(b"pw") == "ok" and enrolled.derivations == 0


def test_a_wrong_password_for_a_verb_ends_no_session(enrolled: World) -> None:
    enrolled.login(b"pw")
    for verb, fields in {
        "passwd": {"old": b"guess", "new": b"x"},
        "recovery": {"password": b"guess"},
        "recover": {"code": b"guess", "new": b"x"},
    }.items():
        assert enrolled.ask(verb, user=USER, **fields)[1]["class"] == b"WrongPassword"
    assert len(enrolled.sessions) == 1


@pytest.mark.parametrize("how", ["idle", "lock", "passwd", "rotate", "recover", "unenroll"])
def test_sessions_end(enrolled: World, how: str) -> None:
    code = enrolled.ask("recovery", user=USER, password=b"pw")[1]["code"]
    enrolled.login(b"pw")
    assert len(enrolled.sessions) == 1
    if how == "idle":
        enrolled.now += 60
        enrolled.sessions.expire()
    elif how == "lock":
        assert enrolled.ask("lock", user=USER)[1]["ended"] == b"1"
    elif how == "passwd":
        assert enrolled.status_of("passwd", user=USER, old=b"pw", new=b"new") == "ok"
    elif how == "rotate":
        assert enrolled.status_of("rotate", user=USER, password=b"pw") == "ok"
    elif how == "recover":
        assert enrolled.status_of("recover", user=USER, code=code, new=b"new") == "ok"
    else:
        assert enrolled.status_of("unenroll", user=USER) == "ok"
    assert len(enrolled.sessions) == 0


def test_a_keyring_changed_on_disk_ends_the_session(enrolled: World) -> None:
    enrolled.login(b"pw")
    keyring = enrolled.vault.store.load(USER.decode())
    enrolled.vault.store.overwrite(keyring)
    enrolled.derivations = 0
    assert enrolled.login(b"pw") == "ok"
    assert enrolled.derivations == 1


def test_app_passwords_share_the_session_and_end_with_their_slot(enrolled: World) -> None:
    _, app = enrolled.ask("app", user=USER, password=b"pw", label=b"phone")
    assert enrolled.login(b"pw") == enrolled.login(app["code"]) == "ok"
    enrolled.derivations = 0
    assert enrolled.login(b"pw") == enrolled.login(app["code"]) == "ok"
    assert enrolled.derivations == 0 and len(enrolled.sessions) == 1
    assert enrolled.status_of("revoke", user=USER, slot=app["slot"]) == "ok"
    assert enrolled.login(app["code"]) == "wrong"
    assert enrolled.login(b"pw") == "ok"
