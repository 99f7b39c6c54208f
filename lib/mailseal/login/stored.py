# SPDX-License-Identifier: MIT
"""What a login compares with the store, and what still works while a database is down.

CONTRACT
    At each login the session is compared with the stored keyring and the public key, so that what
    was changed on any host counts.  While the database is down, users who have a session log in
    with it; for the others StoreUnreachable is raised, a temporary failure.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import Damaged, StoreUnreachable, TemporaryError
from mailseal.keys.stores import Revision
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.vault import Vault

if TYPE_CHECKING:
    from mailseal.login.watch import Changed


class Stored:
    """For the login verbs; on the event loop."""

    def __init__(
        self, vault: Vault, sessions: Sessions, pools: ThreadPools, log: logging.Logger
    ) -> None:
        self._vault = vault
        self._sessions = sessions
        self._pools = pools
        self._log = log

    async def revision(self, user: str) -> Revision | None:
        """Of the stored keyring; while the database is down, of the one that a session has."""
        try:
            return await self._pools.look(lambda: self._vault.revision(user))
        except StoreUnreachable:
            if (revision := self._sessions.revision(user)) is None:
                raise
            return revision

    async def is_new(self, user: str) -> bool:
        """Whether there is nothing of this user."""
        try:
            return await self._pools.look(lambda: self._vault.is_new(user))
        except StoreUnreachable:
            if self._sessions.revision(user) is None:
                raise
            return False

    async def check_public(self, user: str, keys: list[PublicKey]) -> None:
        """At every login, cached or not.  Normally one stat; repairs are left to a thread."""
        try:
            published = await self._pools.look(lambda: self._vault.published(user))
        except StoreUnreachable:
            return
        except (Damaged, TemporaryError):
            published = None
        if published is None or published.key_id != keys[-1].key_id:
            await self._pools.quick(lambda: self._vault.check_public(user, keys))

    def changed(self, changes: Changed) -> None:
        """Another host's agent has changed these keyrings: end their sessions."""
        if changes is None:
            count = self._sessions.end_all()
            self._log.info("another host: all users, sessions ended=%d", count)
            return
        for user, revision in changes.items():
            found = self._sessions.revision(user)
            if found is not None and found != revision:
                self._sessions.end(user)
                self._log.info("session ended by another host: user=<%s>", user)
