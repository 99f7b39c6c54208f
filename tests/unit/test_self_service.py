# SPDX-License-Identifier: MIT
"""The verbs for users, and those for the service that carries out what they asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailseal.errors import MailsealError, NotPermitted, TemporaryError, WrongPassword
from mailseal.keys.keyring import Opened
from mailseal.login.admin_verbs import AdminVerbs
from mailseal.login.chores import Chores
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.newcomers import Newcomers
from mailseal.login.notes import Notes
from mailseal.login.protocol import Fields
from mailseal.login.self_service import SelfService
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.vault import Vault
from mailseal.login.verbs import Answer, Verb
from tests.unit.vaults import open_vault

LOG = logging.getLogger("test.self_service")
USER = "alice@example.org"


async def no_verb(fields: Fields) -> Answer:
    return "ok", {}


def made(vault: Vault, folder: Path, pools: ThreadPools, **options: Any) -> SelfService:
    def check(user: str, password: bytes) -> None:
        if password != b"pw":
            raise WrongPassword("Dovecot refuses it")

    notes = Notes(str(folder / "notes"))
    notes.prepare()
    return SelfService(
        vault,
        pools,
        Sessions(idle=60, absolute=600),
        newcomers=Newcomers(vault, check, options.pop("require_sealable", lambda user: None)),
        chores=options.pop("chores", None) or Chores(notes, no_verb, LOG),
        notes=notes,
        old_mail=lambda user: None,
        describe=lambda user: {"user": user, "problem": "not asked"},
        admin_verbs={"lock": no_verb},
        seals_old_mail=False,
        log=LOG,
        **options,
    )


def test_unenrolled_while_signing_in_is_no_wrong_password(tmp_path: Path) -> None:
    """There is no keyring any more to check the password with: Dovecot decides."""
    pools = ThreadPools(parallel=1, queue=8, memory_kib=1024)
    vault = open_vault(tmp_path, derive=pools.derive)
    before = vault.open

    def removed_first(user: str, password: bytes) -> Opened:
        Lifecycle(vault).unenroll(user)
        return before(user, password)

    async def sign_in() -> str:
        await pools.change(lambda: vault.enroll(USER, b"pw"))
        vault.open = removed_first  # type: ignore[method-assign]
        verbs = made(vault, tmp_path, pools).verbs
        _, answer = await verbs["sign_in"]({"user": USER.encode(), "password": b"pw"})
        return answer["state"].decode()

    try:
        assert '"enrolled": false' in asyncio.run(sign_in())
    finally:
        pools.stop()


class Leaving:
    """A user who leaves, with the agent's verbs on real files."""

    def __init__(self, folder: Path) -> None:
        self.pools = ThreadPools(parallel=1, queue=8, memory_kib=1024)
        self.vault = open_vault(folder)
        notes = Notes(str(folder / "notes"))
        notes.prepare()
        verbs = AdminVerbs(self.vault, Sessions(idle=60, absolute=600), self.pools, LOG).verbs
        self.chores = Chores(notes, verbs["unenroll"], LOG)
        self.verbs = {**verbs, **self.chores.verbs}
        self.vault.enroll(USER, b"pw")

    def ask(self, verb: str, **more: bytes) -> Fields:
        return asked(self.verbs[verb], **more)

    def request(self) -> bytes:
        """The user asks to leave, and the service fetches the keys."""
        opened = self.vault.open(USER, b"pw")
        self.chores.leave(USER, opened.keys)
        opened.wipe()
        return self.ask("leave_keys").get("request", b"")

    @property
    def enrolled(self) -> bool:
        return self.vault.is_known(USER)


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[Leaving]:
    one = Leaving(tmp_path)
    yield one
    one.pools.stop()


def test_keys_are_removed_for_a_suspended_user_who_leaves(leaving: Leaving) -> None:
    request = leaving.request()
    leaving.ask("suspend")
    leaving.ask("leave_done", request=request)
    assert not leaving.enrolled and not leaving.chores.leaves(USER)


def test_an_older_run_does_not_remove_the_keys_for_a_later_request(leaving: Leaving) -> None:
    """The user stays, so mail arrives sealed, and then asks again while the first run counts."""
    first = leaving.request()
    leaving.ask("suspend")
    leaving.chores.stay(USER)
    leaving.ask("repair")
    second = leaving.request()
    leaving.ask("suspend")
    with pytest.raises(MailsealError):
        leaving.ask("leave_done", request=first)
    assert leaving.enrolled and leaving.chores.leaves(USER)
    leaving.ask("leave_done", request=second)
    assert not leaving.enrolled


def test_keys_stay_if_mail_is_not_deferred_any_more(leaving: Leaving) -> None:
    """Somebody has run `mailseal repair`: sealed mail may have arrived since the count."""
    request = leaving.request()
    leaving.ask("suspend")
    leaving.ask("repair")
    with pytest.raises(MailsealError):
        leaving.ask("leave_done", request=request)
    assert leaving.enrolled and leaving.chores.leaves(USER)


def test_a_request_that_cannot_be_carried_out_is_dropped(leaving: Leaving) -> None:
    request = leaving.request()
    with pytest.raises(MailsealError):
        leaving.ask("leave_failed", request=b"another")
    leaving.ask("leave_failed", request=request)
    assert leaving.enrolled and not leaving.chores.leaves(USER)


def test_sessions_count_as_ended_when_the_service_says_so(leaving: Leaving) -> None:
    """`doveadm kick` may fail; and the user may ask once more while it runs."""
    leaving.chores.kick(USER)
    first = leaving.ask("chores")["kick"]
    assert leaving.ask("chores")["kick"] == first != b""
    leaving.chores.kick(USER)
    leaving.ask("kicked", kick=first)
    second = leaving.ask("chores")["kick"]
    assert second not in (first, b"")
    leaving.ask("kicked", kick=second)
    assert leaving.ask("chores")["kick"] == b""


def refuse(user: str) -> None:
    raise TemporaryError("Dovecot's mail_location has the format mbox")


def unreachable(user: str, *, of_key: bool) -> list[str]:
    raise TemporaryError("the database does not answer")


@pytest.fixture
def pools() -> Iterator[ThreadPools]:
    found = ThreadPools(parallel=1, queue=8, memory_kib=1024)
    yield found
    found.stop()


def test_nobody_is_enrolled_whose_mail_cannot_be_sealed(tmp_path: Path, pools: ThreadPools) -> None:
    vault = open_vault(tmp_path)
    verbs = made(vault, tmp_path, pools, require_sealable=refuse).verbs
    signed_in = asked(verbs["sign_in"], password=b"pw")
    assert b'"enrolled": false' in signed_in["state"]
    with pytest.raises(TemporaryError):
        asked(verbs["enroll_begin"], password=b"pw")


def test_sessions_end_though_a_host_does_not_confirm_the_enrollment(
    tmp_path: Path, pools: ThreadPools, leaving: Leaving
) -> None:
    """The user is enrolled: older sessions would go on saving mail in clear."""
    (tmp_path / "other").mkdir()
    vault = open_vault(tmp_path / "other")
    vault.public.unaware = unreachable  # type: ignore[method-assign]
    verbs = made(vault, tmp_path, pools, chores=leaving.chores).verbs
    begun = asked(verbs["enroll_begin"], password=b"pw")
    groups = begun["code"].decode().split("-")
    typed = " ".join(groups[int(number) - 1] for number in begun["asked"].split()).encode()
    with pytest.raises(TemporaryError):
        asked(verbs["enroll_finish"], password=b"pw", typed=typed)
    assert vault.is_known(USER)
    assert leaving.ask("chores")["kick"].endswith(USER.encode())


def test_a_user_whom_the_next_login_would_enroll_again_does_not_leave(
    tmp_path: Path, pools: ThreadPools
) -> None:
    vault = open_vault(tmp_path)
    vault.enroll(USER, b"pw")
    service = made(vault, tmp_path, pools, enrolls_at_login=lambda user: True)
    with pytest.raises(NotPermitted, match=r"login\.enroll"):
        asked(service.verbs["leave"], password=b"pw")
    assert b'"can_leave": false' in asked(service.verbs["sign_in"], password=b"pw")["state"]


def asked(verb: Verb, **fields: bytes) -> Fields:
    """The fields of the answer about the user."""

    async def answer() -> Answer:
        return await verb({"user": USER.encode(), **fields})

    return asyncio.run(answer())[1]


def test_a_second_tab_that_fails_does_not_remove_the_wish_of_the_first(
    tmp_path: Path, pools: ThreadPools
) -> None:
    vault = open_vault(tmp_path)
    service = made(vault, tmp_path, pools)
    wish = Notes(str(tmp_path / "notes"))
    begun = asked(service.verbs["enroll_begin"], password=b"pw")
    groups = begun["code"].decode().split("-")
    typed = " ".join(groups[int(number) - 1] for number in begun["asked"].split()).encode()
    asked(service.verbs["enroll_finish"], password=b"pw", typed=typed, old_mail=b"1")
    assert wish.wants_old_mail(USER)
    # The second tab has looked before the first one was ready.
    vault.is_known = lambda user: False  # type: ignore[method-assign]
    with pytest.raises(MailsealError):
        asked(service.verbs["enroll_finish"], password=b"pw", typed=typed)
    assert wish.wants_old_mail(USER)
