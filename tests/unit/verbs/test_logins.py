# SPDX-License-Identifier: MIT
"""A login: when Argon2id runs, what Dovecot gets, and what is temporary."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.keystore import Keystore
from mailseal.login.mailcrypt_fields import login_fields
from mailseal.login.policy import Policy
from tests.unit.verbs.world import USER, World


def test_a_second_login_costs_no_derivation(enrolled: World) -> None:
    assert [enrolled.login(b"pw") for _ in range(5)] == ["ok"] * 5
    assert enrolled.derivations == 1


def test_logins_at_once_share_one_derivation(enrolled: World) -> None:
    async def at_once() -> list[str]:
        fields = {"user": USER, "password": b"pw"}
        answers = [enrolled.service.answer("unlock", fields, admin=False) for _ in range(50)]
        return [status for status, _ in await asyncio.gather(*answers)]

    assert asyncio.run(at_once()) == ["ok"] * 50
    assert enrolled.derivations == 1


def test_a_login_shares_no_derivation_that_began_before_the_password_was_set(
    enrolled: World,
) -> None:
    """A phone that used the new password too early must not make it wrong for others."""
    began, go_on = threading.Event(), threading.Event()
    derive = enrolled.vault.derive

    def slow(password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        if not began.is_set():
            began.set()
            go_on.wait(120)
        return derive(password, salt, cost, size)

    enrolled.vault.derive = slow

    async def too_early() -> list[str]:
        login = {"user": USER, "password": b"new"}
        answer = enrolled.service.answer
        phone = asyncio.ensure_future(answer("unlock", login, admin=False))
        while not began.is_set():
            await asyncio.sleep(0.01)
        change = {"user": USER, "old": b"pw", "new": b"new"}
        assert (await answer("passwd", change, admin=True))[0] == "ok"
        desk = asyncio.ensure_future(answer("unlock", login, admin=False))
        await asyncio.sleep(0.1)
        go_on.set()
        return [status for status, _ in (await phone, await desk)]

    assert asyncio.run(too_early()) == ["wrong", "ok"]


def test_what_dovecot_gets_opens_the_mail(enrolled: World) -> None:
    _, fields = enrolled.ask("unlock", user=b"ALICE@example.org", password=b"pw")
    assert fields["user"] == USER
    assert fields["mail_crypt_save_version"] == b"2"
    wrapped = fields["mail_crypt_global_private_key"].decode()
    password = fields["mail_crypt_global_private_key_password"]
    public = fields["mail_crypt_global_public_key"].decode()
    assert PrivateKey.parse(wrapped, password).public.dovecot_string() == public
    _, again = enrolled.ask("unlock", user=USER, password=b"pw")
    assert again["mail_crypt_global_private_key_password"] != password, "a new one at each login"


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_no_private_number_in_any_field(version: str) -> None:
    keys = [PrivateKey.generate() for _ in range(3)]
    fields = login_fields(version, keys)
    for key in keys:
        assert not any(key.scalar.hex() in value for _, value in fields)
    names = [name for name, _ in fields]
    assert len(names) == len(set(names)) and all(value for _, value in fields)
    passwords = [value for name, value in fields if name.endswith("_password")]
    assert len(passwords) == (3 if version == "2.3" else 1) and len(set(passwords)) == 1


def test_the_same_wrong_password_is_derived_once(enrolled: World) -> None:
    assert {enrolled.login(b"wrong") for _ in range(10)} == {"wrong"}
    assert enrolled.derivations == 1
    enrolled.ask("passwd", user=USER, old=b"pw", new=b"wrong")
    assert enrolled.login(b"wrong") == "ok", "the keyring has changed, so the result is new"


def test_an_unknown_user_costs_one_derivation_too(world: World) -> None:
    assert world.login(b"pw") == "wrong"
    assert world.derivations == 1


def test_a_replaced_public_key_is_seen_in_a_session_too(
    enrolled: World, caplog: pytest.LogCaptureFixture
) -> None:
    enrolled.login(b"pw")
    enrolled.vault.public.publish(USER.decode(), PrivateKey.generate().public)
    status, fields = enrolled.ask("unlock", user=USER, password=b"pw")
    assert status == "temporary" and b"replaced" in fields["reason"]
    assert "PUBLIC KEY REPLACED" in caplog.text
    assert enrolled.status_of("repair", user=USER) == "ok"
    assert enrolled.login(b"pw") == "ok"


def test_damage_is_temporary_and_never_wrong(enrolled: World) -> None:
    store = enrolled.vault.store
    assert isinstance(store, Keystore)
    path = Path(store.folder, "alice@example.org.json")
    path.write_bytes(path.read_bytes()[:100])
    assert enrolled.login(b"pw") == "temporary"
    assert enrolled.login(b"wrong") == "temporary"


def test_an_unexpected_exception_is_temporary_and_shows_nothing(
    enrolled: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret text")

    monkeypatch.setattr(enrolled.vault, "unlock", broken)
    status, fields = enrolled.ask("unlock", user=USER, password=b"pw")
    assert status == "temporary" and b"secret" not in fields["reason"]
    assert f"ZeroDivisionError at {Path(__file__).name}" in caplog.text
    assert "secret text" not in caplog.text


@pytest.mark.parametrize("policy", [Policy(keyless=frozenset({"submission"}))])
def test_submission_checks_the_password_and_gets_no_key(enrolled: World) -> None:
    assert enrolled.login(b"wrong", service=b"submission") == "wrong"
    answer = enrolled.ask("unlock", user=USER, password=b"pw", service=b"submission")
    assert answer[0] == "ok" and answer[1]["user"] == USER
    # The userdb must see that this login has the key of this user.
    assert "mail_crypt_global_public_key" in answer[1]
    assert not any("private" in name for name in answer[1])


class OffTheLoop:
    """A store that must not be called on the event loop."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            raise AssertionError(f"{name}() on the event loop")
        return getattr(self._store, name)


@pytest.mark.parametrize("policy", [Policy(enroll_at_login=True)])
def test_no_store_is_called_on_the_event_loop(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    vault = world.vault
    keyrings: Any = OffTheLoop(vault.store)
    public: Any = OffTheLoop(vault.public)
    vault.store = vault.stores.keyrings = keyrings
    vault.public = vault.stores.public = public
    for answer in (
        world.login(b"pw"),
        world.login(b"pw", behind=b"1"),
        world.login(b"pw", behind=b"1"),
        world.login(b"wrong", behind=b"1"),
        world.login(b"wrong"),
        world.login(b"x", behind=b"1", master=b"root"),
        world.status_of("lookup", user=USER),
        world.status_of("status"),
        world.status_of("status", user=USER),
        world.status_of("status", user=b"nobody"),
        world.status_of("passwd", user=USER, old=b"pw", new=b"new"),
        world.status_of("rotate", user=USER, password=b"new"),
        world.login(b"new"),
        world.status_of("unenroll", user=USER),
    ):
        assert answer in ("ok", "wrong", "unknown", "temporary", "error")
    assert "unexpected" not in caplog.text and "on the event loop" not in caplog.text
