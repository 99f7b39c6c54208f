# SPDX-License-Identifier: MIT
"""A wrong secret at the page: the same answer and the same work, for any user."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailseal.errors import MailsealError, TooManyGuesses, WrongPassword
from mailseal.keys import codes
from mailseal.login.admin_verbs import AdminVerbs
from mailseal.login.chores import Chores
from mailseal.login.guesses import Guesses, Limits
from mailseal.login.newcomers import Newcomers
from mailseal.login.notes import Notes
from mailseal.login.panel_verbs import PanelVerbs
from mailseal.login.self_service import SelfService
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.verbs import Verb
from tests.unit.vaults import open_vault

LOG = logging.getLogger("test.strangers")
ON, OFF = "on@example.org", "off@example.org"
FIELDS = {"new": b"new", "label": b"phone", "slot": b"zzz", "typed": b"zzzz zzzz"}
PROVING = (
    *("sign_in", "enroll_begin", "enroll_finish", "code_begin", "code_finish", "seal_old"),
    *("leave", "stay", "end_sessions", "own_keys", "reset", "passwd", "recover", "rewrap"),
    *("recovery", "app", "revoke"),
)


class Page:
    """The verbs of the page, and a count of what they do."""

    def __init__(self, folder: Path, *, dovecot: bool = True) -> None:
        self.done: list[str] = []
        self.pools = ThreadPools(parallel=1, queue=8, memory_kib=1024)
        vault = open_vault(folder, derive=self._counted(self.pools.derive))
        self.now = 1000.0
        guesses = Guesses(Limits(per_user=1000, per_address=1000), clock=lambda: self.now)
        self.guesses = guesses
        sessions = Sessions(idle=60, absolute=600)
        admin = AdminVerbs(vault, sessions, self.pools, LOG).verbs
        notes = Notes(str(folder / "notes"))
        notes.prepare()

        def check(user: str, password: bytes) -> None:
            self.done.append("Dovecot")
            if password != b"pw":
                raise WrongPassword("Dovecot refuses it")

        service = SelfService(
            vault,
            self.pools,
            sessions,
            newcomers=Newcomers(vault, check if dovecot else None),
            chores=Chores(notes, admin["unenroll"], LOG),
            notes=notes,
            old_mail=lambda user: None,
            describe=lambda user: {"user": user, "problem": "not asked"},
            admin_verbs=admin,
            seals_old_mail=False,
            log=LOG,
        )
        panel = PanelVerbs(vault, self.pools, admin, guesses)
        self.verbs: dict[str, Verb] = {**panel.verbs, **panel.guarded(service.verbs)}
        asyncio.run(self._enroll(admin["enroll"]))

    async def _enroll(self, verb: Verb) -> None:
        await verb({"user": ON.encode(), "password": b"pw"})

    def _counted(self, derive: Callable[..., bytes]) -> Callable[..., bytes]:
        def counted(*given: object) -> bytes:
            self.done.append("Argon2id")
            return derive(*given)

        return counted

    def refused(self, verb: str, user: str, secret: bytes, remote: str = "") -> list[str]:
        """The class of the error, and what was done before."""
        self.done.clear()
        proofs = dict.fromkeys(("password", "old", "code", "secret"), secret)
        fields = {**FIELDS, **proofs, "user": user.encode()}
        if remote:
            fields["remote"] = remote.encode()

        async def ask() -> None:
            await self.verbs[verb](fields)

        with pytest.raises(MailsealError) as got:
            asyncio.run(ask())
        return [type(got.value).__name__, *self.done]


@pytest.fixture(params=[True, False], ids=["dovecot", "keyring-only"])
def page(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    one = Page(tmp_path, dovecot=request.param)
    yield one
    one.pools.stop()


def test_every_verb_is_here(page: Page) -> None:
    assert set(PROVING) == set(page.verbs) - {
        *("state", "begun", "code_begun", "commit", "undo", "status")
    }


@pytest.mark.parametrize("verb", PROVING)
def test_the_same_answer_after_the_same_work(page: Page, verb: str) -> None:
    for secret in (b"guess", codes.make("recovery", "zzz").encode()):
        on, off = (page.refused(verb, user, secret) for user in (ON, OFF))
        assert on == off, (verb, secret)
        # Without a passdb nobody leaves or enrolls, whoever asks.
        wanted = "NotPermitted" if verb == "leave" and "Dovecot" not in on else on[0]
        assert on[0] in ("WrongPassword", wanted)


def test_one_wrong_password_repeated_is_counted_each_time(tmp_path: Path) -> None:
    """Otherwise one address could keep the page busy with it: each attempt runs Argon2id."""
    page = Page(tmp_path)
    try:
        for user in (ON, OFF):
            page.guesses._limits = Limits(per_user=5, per_address=1000, pause=60)
            said = [page.refused("sign_in", user, b"guess", "192.0.2.1")[0] for _ in range(8)]
            assert said == ["WrongPassword"] * 5 + ["TooManyGuesses"] * 3
            page.now += 1
            assert page.refused("sign_in", user, b"guess", "192.0.2.1")[0] == "WrongPassword"
            page.now += 1  # the pause is two seconds now
            assert page.refused("sign_in", user, b"guess", "192.0.2.1") == ["TooManyGuesses"]
    finally:
        page.pools.stop()


def test_a_phone_with_an_old_password_is_still_counted_once() -> None:
    guesses = Guesses(Limits(per_user=2, per_address=1000), clock=lambda: 1000.0)
    for _ in range(9):
        guesses.admit(ON, "192.0.2.1").ended(b"ab")
    guesses.admit(ON, "192.0.2.1").ended(b"cd")
    with pytest.raises(TooManyGuesses):
        guesses.admit(ON, "192.0.2.1")
