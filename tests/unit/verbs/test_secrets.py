# SPDX-License-Identifier: MIT
"""Passwords, app passwords, codes and key pairs: what sets them, and what each may do."""

from __future__ import annotations

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.login.policy import Policy
from tests.unit.verbs.world import USER, World


def test_an_app_password_manages_nothing(enrolled: World) -> None:
    code = enrolled.ask("app", user=USER, password=b"pw", label=b"phone")[1]["code"]
    assert enrolled.status_of("open", user=USER, password=code) == "ok"
    for verb, fields in {
        "passwd": {"old": code, "new": b"mine"},
        "rewrap": {"secret": code, "new": b"mine"},
        "recovery": {"password": code},
        "app": {"password": code, "label": b"another"},
        "rotate": {"password": code},
        "export": {"secret": code},
    }.items():
        status, answer = enrolled.ask(verb, user=USER, **fields)
        assert (status, answer["class"]) == ("error", b"WrongPassword"), verb


def test_a_recovery_code_replaces_an_older_one(enrolled: World) -> None:
    one = enrolled.ask("recovery", user=USER, password=b"pw")[1]["code"]
    two = enrolled.ask("recovery", user=USER, password=b"pw")[1]["code"]
    assert enrolled.ask("recover", user=USER, code=one, new=b"new")[1]["class"] == b"WrongPassword"
    assert enrolled.status_of("recover", user=USER, code=two.upper(), new=b"new") == "ok"
    assert (enrolled.login(b"pw"), enrolled.login(b"new")) == ("wrong", "ok")
    assert enrolled.login(two) == "wrong", "a recovery code is not a password"


def test_rotation_gives_dovecot_all_keys(enrolled: World) -> None:
    old = enrolled.ask("unlock", user=USER, password=b"pw")[1]["mail_crypt_global_public_key"]
    enrolled.ask("rotate", user=USER, password=b"pw")
    _, fields = enrolled.ask("unlock", user=USER, password=b"pw")
    current = fields["mail_crypt_global_public_key"]
    assert current != old
    ids = []
    for name in ("mail_crypt_global_private_key", "mail_crypt_global_private_key2"):
        key = PrivateKey.parse(fields[name].decode(), fields[f"{name}_password"])
        ids.append(key.public.dovecot_string().encode())
    assert ids == [current, old]
    assert "mail_crypt_global_private_key3" not in fields


LONGEST, TOO_LONG = b"x" * 255, b"x" * 256


def test_no_verb_sets_a_password_that_the_chain_does_not_carry(enrolled: World) -> None:
    code = enrolled.ask("recovery", user=USER, password=b"pw")[1]["code"]
    for verb, fields in {
        "enroll": {"user": b"bob", "password": TOO_LONG},
        "passwd": {"old": b"pw", "new": TOO_LONG},
        "recover": {"code": code, "new": TOO_LONG},
        "rewrap": {"secret": b"pw", "new": TOO_LONG},
    }.items():
        status, answer = enrolled.ask(verb, **{"user": USER, **fields})
        assert (status, answer["class"]) == ("error", b"BadPassword"), verb
        assert b"256 bytes, at most 255" in answer["message"]
    assert enrolled.login(b"pw") == "ok"
    assert enrolled.status_of("passwd", user=USER, old=b"pw", new=LONGEST) == "ok"
    assert enrolled.login(LONGEST) == "ok"


@pytest.mark.parametrize("policy", [Policy(enroll_at_login=True)])
def test_nor_does_a_first_login(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.login(TOO_LONG, behind=b"1") == "unknown"
    assert "not enrolled at login: the password has 256 bytes" in caplog.text
    assert world.login(LONGEST, behind=b"1") == "ok"


def test_an_app_login_opens_with_an_app_password_only(enrolled: World) -> None:
    code = enrolled.ask("app", user=USER, password=b"pw", label=b"phone")[1]["code"]
    assert enrolled.login(code, app=b"1") == "ok"
    assert enrolled.login(b"pw") == "ok"
    assert enrolled.login(b"pw", app=b"1") == "wrong"
    recovery = enrolled.ask("recovery", user=USER, password=b"pw")[1]["code"]
    assert enrolled.login(recovery, app=b"1") == "wrong"


def test_escrow_slot_comes_with_enrollment_or_at_the_next_login(enrolled: World) -> None:
    escrow = PrivateKey.generate()
    enrolled.vault.escrow = escrow.public
    assert enrolled.login(b"pw") == "ok"
    keyring = enrolled.vault.store.load(USER.decode())
    assert keyring.open_escrow(escrow).keys
    assert keyring.revision == 1
    enrolled.derivations = 0
    assert enrolled.login(b"pw") == "ok"
    assert enrolled.derivations == 0, "the session belongs to the keyring with the new slot"
    enrolled.ask("lock", user=USER)
    enrolled.login(b"pw")
    assert enrolled.vault.store.load(USER.decode()).revision == 1, "the slot is added once"
    enrolled.ask("enroll", user=b"bob", password=b"pw")
    assert enrolled.vault.store.load("bob").open_escrow(escrow).keys
