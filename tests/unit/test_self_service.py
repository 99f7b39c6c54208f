# SPDX-License-Identifier: MIT
"""The verbs for users, and those for the service that carries out what they asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.errors import MailsealError, WrongPassword
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
from mailseal.login.verbs import Answer
from tests.unit.vaults import open_vault

LOG = logging.getLogger("test.self_service")
USER = "alice@example.org"


async def no_verb(fields: Fields) -> Answer:
    return "ok", {}


def made(vault: Vault, folder: Path, pools: ThreadPools) -> SelfService:
    def check(user: str, password: bytes) -> None:
        if password != b"pw":
            raise WrongPassword("Dovecot refuses it")

    notes = Notes(str(folder / "notes"))
    notes.prepare()
    return SelfService(
        vault,
        pools,
        Sessions(idle=60, absolute=600),
        newcomers=Newcomers(vault, check),
        chores=Chores(notes, no_verb, LOG),
        notes=notes,
        old_mail=lambda user: None,
        describe=lambda user: {"user": user, "problem": "not asked"},
        lock=no_verb,
        seals_old_mail=False,
        log=LOG,
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
        async def answer() -> Answer:
            return await self.verbs[verb]({"user": USER.encode(), **more})

        return asyncio.run(answer())[1]

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
    made = Leaving(tmp_path)
    yield made
    made.pools.stop()


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
