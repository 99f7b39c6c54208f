# SPDX-License-Identifier: MIT
"""Compares sessions with the store at each login, also while a database is down.

CONTRACT
    At each login the session is compared with the stored keyring and the public key, so a change
    on any host takes effect.  While the database is down, users who have a session can log in with
    it.  For all others StoreUnreachable is raised: a temporary failure.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import Damaged, StoreUnreachable, TemporaryError
from mailseal.keys.stores import Revision
from mailseal.login.indexes import Indexes
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.vault import Vault

if TYPE_CHECKING:
    from mailseal.keys.sql.feed import Names
    from mailseal.login.watch import Changed


class Stored:
    """Used by the login verbs, on the event loop."""

    def __init__(
        self,
        vault: Vault,
        sessions: Sessions,
        pools: ThreadPools,
        log: logging.Logger,
        indexes: Indexes | None = None,
    ) -> None:
        self._vault = vault
        self._sessions = sessions
        self._pools = pools
        self._log = log
        self._indexes = indexes

    async def revision(self, user: str) -> Revision | None:
        """Revision of the stored keyring, or, while the database is down, that of the session."""
        try:
            return await self._pools.look(lambda: self._vault.revision(user))
        except StoreUnreachable:
            if (revision := self._sessions.revision(user)) is None:
                raise
            return revision

    async def is_new(self, user: str) -> bool:
        """Whether nothing is stored of this user."""
        try:
            return await self._pools.look(lambda: self._vault.is_new(user))
        except StoreUnreachable:
            if self._sessions.revision(user) is None:
                raise
            return False

    async def check_public(self, user: str, keys: list[PublicKey]) -> None:
        """Called at every login, cached or not.  Normally one stat(); repairs run in a thread."""
        try:
            published = await self._pools.look(lambda: self._vault.published(user))
        except StoreUnreachable:
            return
        except (Damaged, TemporaryError):
            published = None
        if published is None or published.key_id != keys[-1].key_id:
            await self._pools.quick(lambda: self._vault.check_public(user, keys))

    async def changed(self, changes: Changed, locked: Names) -> None:
        """End the sessions of these keyrings, which another host's agent has changed.

        Lock the indexes of the users that it has locked.
        """
        self._end_sessions(changes)
        if self._indexes is None:
            return
        if locked is None:
            await self._indexes.lock_all()
        for user in locked or ():
            if self._sessions.revision(user) is None:  # otherwise there was a login since
                await self._indexes.lock(user)

    def _end_sessions(self, changes: Changed) -> None:
        if changes is None:
            count = self._sessions.end_all()
            self._log.info("another host: all users, sessions ended=%d", count)
            return
        for user, revision in changes.items():
            found = self._sessions.revision(user)
            if found is not None and found != revision:
                self._sessions.end(user)
                self._log.info("session ended by another host: user=<%s>", user)
