# SPDX-License-Identifier: MIT
"""The verbs for users: a user who is unenrolled at the moment of signing in."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from mailseal.errors import WrongPassword
from mailseal.keys.keyring import Opened
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
