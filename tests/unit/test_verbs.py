# SPDX-License-Identifier: MIT
"""The agent's verbs: when Argon2id runs, caching, and each policy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.keystore import Keystore
from mailseal.login.admin_verbs import AdminVerbs
from mailseal.login.login_verbs import LoginVerbs
from mailseal.login.mailcrypt_fields import login_fields
from mailseal.login.policy import Policy
from mailseal.login.protocol import Fields
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.vault import SETTLE_AFTER
from tests.unit.vaults import open_vault

CHEAP = kdf.PROFILES["insecure-testing"]
USER = b"alice@example.org"
LOG = logging.getLogger("test.service")


class World:
    """The verbs, with a stopped clock and a count of derivations."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self.derivations = 0
        self.now = 0.0
        self.pools = ThreadPools(parallel=2, queue=8, memory_kib=1024)
        self.vault = open_vault(folder, derive=self.derive)
        self.sessions = Sessions(idle=60, absolute=600, clock=lambda: self.now)
        verbs = AdminVerbs(self.vault, self.sessions, self.pools, LOG).verbs
        self.service = LoginVerbs(
            self.vault,
            self.sessions,
            self.pools,
            admin_verbs=verbs,
            version="2.3",
            policy=policy,
            log=LOG,
        )

    def derive(self, password: bytes, salt: bytes, cost: kdf.Profile, size: int) -> bytes:
        self.derivations += 1
        return self.pools.derive(password, salt, cost, size)

    def ask(self, verb: str, **fields: bytes) -> tuple[str, Fields]:
        return asyncio.run(self.service.answer(verb, fields, admin=True))

    def status_of(self, verb: str, **fields: bytes) -> str:
        return self.ask(verb, **fields)[0]

    def login(self, password: bytes, **fields: bytes) -> str:
        return self.status_of(
            "unlock", user=USER, password=password, **{"mechanism": b"PLAIN", **fields}
        )


@pytest.fixture
def policy() -> Policy:
    return Policy()


@pytest.fixture
def world(tmp_path: Path, policy: Policy) -> Iterator[World]:
    world = World(tmp_path, policy)
    yield world
    world.pools.stop()


@pytest.fixture
def enrolled(world: World) -> World:
    assert world.status_of("enroll", user=USER, password=b"pw") == "ok"
    world.derivations = 0
    return world


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
            go_on.wait(30)
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


def test_a_wrong_password_opens_no_session_and_ends_none(enrolled: World) -> None:
    assert enrolled.login(b"wrong") == "wrong"
    assert len(enrolled.sessions) == 0
    enrolled.login(b"pw")
    assert enrolled.login(b"wrong") == "wrong"
    assert len(enrolled.sessions) == 1
    enrolled.derivations = 0
    assert enrolled.login(b"pw") == "ok" and enrolled.derivations == 0


def test_the_same_wrong_password_is_derived_once(enrolled: World) -> None:
    assert {enrolled.login(b"wrong") for _ in range(10)} == {"wrong"}
    assert enrolled.derivations == 1
    enrolled.ask("passwd", user=USER, old=b"pw", new=b"wrong")
    assert enrolled.login(b"wrong") == "ok", "the keyring has changed, so the result is new"


def test_an_unknown_user_costs_one_derivation_too(world: World) -> None:
    assert world.login(b"pw") == "wrong"
    assert world.derivations == 1


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
    assert "ZeroDivisionError at test_verbs.py" in caplog.text
    assert "secret text" not in caplog.text


def test_app_passwords_share_the_session_and_end_with_their_slot(enrolled: World) -> None:
    _, app = enrolled.ask("app", user=USER, password=b"pw", label=b"phone")
    assert enrolled.login(b"pw") == enrolled.login(app["code"]) == "ok"
    enrolled.derivations = 0
    assert enrolled.login(b"pw") == enrolled.login(app["code"]) == "ok"
    assert enrolled.derivations == 0 and len(enrolled.sessions) == 1
    assert enrolled.status_of("revoke", user=USER, slot=app["slot"]) == "ok"
    assert enrolled.login(app["code"]) == "wrong"
    assert enrolled.login(b"pw") == "ok"


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


class TestBehindAnotherPassdb:
    """--behind-passdb: another passdb has accepted the password."""

    def test_not_enrolled_is_unknown_at_no_cost(self, world: World) -> None:
        assert world.login(b"pw", behind=b"1") == "unknown"
        assert world.derivations == 0

    def test_a_password_that_only_the_passdb_knows_is_temporary(
        self, enrolled: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        status, fields = enrolled.ask("unlock", user=USER, password=b"changed", behind=b"1")
        assert status == "temporary"
        assert b"mailseal rewrap alice@example.org" in fields["reason"]
        assert "mailseal rewrap alice@example.org" in caplog.text

    def test_pop3_without_the_key_is_refused(self, enrolled: World) -> None:
        changed = {"user": USER, "behind": b"1", "service": b"pop3"}
        assert enrolled.status_of("unlock", **changed, password=b"changed") == "temporary"
        assert enrolled.status_of("unlock", **changed, password=b"m", master=b"r") == "temporary"
        looked = enrolled.status_of("lookup", user=USER, service=b"pop3", master=b"root")
        assert looked == "temporary"
        assert enrolled.status_of("unlock", **changed, password=b"pw") == "ok"

    def test_rewrap_with_the_previous_password(self, enrolled: World) -> None:
        assert enrolled.status_of("rewrap", user=USER, secret=b"pw", new=b"changed") == "ok"
        assert enrolled.login(b"changed", behind=b"1") == "ok"

    def test_rewrap_with_a_recovery_code(self, enrolled: World) -> None:
        code = enrolled.ask("recovery", user=USER, password=b"pw")[1]["code"]
        assert enrolled.status_of("rewrap", user=USER, secret=code, new=b"changed") == "ok"
        assert enrolled.login(b"changed", behind=b"1") == "ok"

    def test_a_master_user_gets_no_key(
        self, enrolled: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            status, fields = enrolled.ask(
                "unlock", user=USER, password=b"master pw", behind=b"1", master=b"root"
            )
        assert status == "ok" and not any("private" in name for name in fields)
        assert "no key: master user <root>" in caplog.text
        assert enrolled.derivations == 0

    def test_in_an_open_change_both_passwords_work_until_a_login(self, enrolled: World) -> None:
        change = {"user": USER, "old": b"pw", "new": b"new"}
        assert enrolled.status_of("passwd", **change, keep_old=b"1") == "ok"
        assert enrolled.login(b"pw") == enrolled.login(b"new") == "ok"
        enrolled.ask("lock", user=USER)
        assert enrolled.login(b"pw", behind=b"1") == "ok"
        enrolled.ask("lock", user=USER)
        assert enrolled.login(b"new") == "ok", "the panel has not changed the hash yet"
        enrolled.ask("lock", user=USER)
        assert enrolled.login(b"new", behind=b"1") == "ok"
        assert (enrolled.login(b"pw"), enrolled.login(b"new")) == ("wrong", "ok")

    def test_the_old_password_decides_after_a_while_whatever_is_cached(
        self, enrolled: World
    ) -> None:
        clock = [1e6]
        enrolled.vault._clock = lambda: clock[0]
        enrolled.ask("passwd", user=USER, old=b"pw", new=b"new", keep_old=b"1")
        assert enrolled.login(b"pw", behind=b"1") == "ok"
        clock[0] += SETTLE_AFTER
        assert enrolled.login(b"pw", behind=b"1") == "ok"
        assert enrolled.login(b"new") == "wrong"
        enrolled.derivations = 0
        assert enrolled.login(b"pw", behind=b"1") == "ok" and enrolled.derivations == 0

    @pytest.mark.parametrize(("verb", "works"), [("commit", b"new"), ("undo", b"pw")])
    def test_staged_change_commit_and_undo(self, enrolled: World, verb: str, works: bytes) -> None:
        change = {"user": USER, "old": b"pw", "new": b"new"}
        begun = enrolled.ask("passwd", **change, keep_old=b"1")[1]["change"]
        assert enrolled.status_of(verb, user=USER, change=begun) == "ok"
        for password in (b"pw", b"new"):
            assert enrolled.login(password) == ("ok" if password == works else "wrong")

    @pytest.mark.parametrize("policy", [Policy(keyless=frozenset({"submission"}))])
    def test_no_key_is_derived_for_submission(self, enrolled: World) -> None:
        status, fields = enrolled.ask(
            "unlock", user=USER, password=b"whatever", behind=b"1", service=b"submission"
        )
        assert status == "ok" and not any("private" in name for name in fields)
        assert enrolled.derivations == 0
        assert enrolled.login(b"pw", behind=b"1", service=b"imap") == "ok"

    @pytest.mark.parametrize("policy", [Policy(enroll_at_login=True)])
    def test_enrollment_at_the_first_login(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert world.login(b"pw") == "wrong", "only behind a passdb that has checked the password"
        assert world.login(b"pw", behind=b"1") == "ok"
        assert world.login(b"pw") == "ok"
        assert "NO RECOVERY METHOD" in caplog.text

    @pytest.mark.parametrize("policy", [Policy(enroll_at_login=True)])
    @pytest.mark.parametrize("mechanism", [b"XOAUTH2", b"OAUTHBEARER", b"GSSAPI", b""])
    def test_no_enrollment_with_what_may_be_no_password(
        self, world: World, mechanism: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert world.login(b"a token", behind=b"1", mechanism=mechanism) == "unknown"
        assert world.vault.store.revision(USER.decode()) is None
        assert "not enrolled at login" in caplog.text

    @pytest.mark.parametrize("policy", [Policy(enroll_at_login=True)])
    def test_no_enrollment_for_a_master_user(self, world: World) -> None:
        assert world.login(b"pw", behind=b"1", master=b"root") == "unknown"
        assert world.vault.store.revision(USER.decode()) is None

    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            (Policy(enroll_at_login=True, enroll_for=("@example.org",)), "ok"),
            (Policy(enroll_at_login=True, enroll_for=("alice@example.org",)), "ok"),
            (Policy(enroll_at_login=True, enroll_for=("@example.com", "bob@x")), "unknown"),
            (Policy(enroll_at_login=False, enroll_for=("@example.org",)), "unknown"),
        ],
    )
    def test_enrollment_for_some(self, world: World, expected: str) -> None:
        assert world.login(b"pw", behind=b"1") == expected


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


@pytest.mark.parametrize("policy", [Policy(keyless=frozenset({"submission"}))])
def test_submission_checks_the_password_and_gets_no_key(enrolled: World) -> None:
    assert enrolled.login(b"wrong", service=b"submission") == "wrong"
    answer = enrolled.ask("unlock", user=USER, password=b"pw", service=b"submission")
    assert answer[0] == "ok" and answer[1]["user"] == USER
    # The userdb must see that this login has the key of this user.
    assert "mail_crypt_global_public_key" in answer[1]
    assert not any("private" in name for name in answer[1])


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
