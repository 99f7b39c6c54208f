# SPDX-License-Identifier: MIT
"""Compares logins with what is stored, also while a database is down.

CONTRACT
    At each login the session is compared with the stored keyring and the public key, so a change
    on any host takes effect.  While the database is down, users who have a session can log in with
    it.  For all others StoreUnreachable is raised: a temporary failure.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import Damaged, StoreUnreachable, TemporaryError
from mailseal.keys.stores import Revision
from mailseal.login.host_copy import in_use
from mailseal.login.indexes import Indexes
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.vault import Vault

if TYPE_CHECKING:
    from mailseal.keys.sql.feed import Names
    from mailseal.login.watch import Changed


class Found(NamedTuple):
    """What is stored of a user."""

    revision: Revision | None
    """Of the keyring; while the database is down, that of the session."""
    is_new: bool
    """Whether there is neither a keyring nor a mark."""
    public: bytes | None
    """The id of the published key.  Empty if it is missing or damaged; None while the database is
    down."""


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

    async def look(self, user: str) -> Found:
        """What is stored of the user.  All in one job: each one takes 0.15 ms, a stat() 0.01 ms."""
        try:
            return await self._pools.look(lambda: self._look(user))
        except StoreUnreachable:
            if (revision := self._sessions.revision(user)) is None:
                raise
            return Found(revision, False, None)

    def _look(self, user: str) -> Found:
        revision = self._vault.revision(user)
        if revision is None:
            is_new = self._vault.is_new(user)
            if is_new:
                self._vault.copy.must_not_know(user)
            return Found(None, is_new, b"")
        try:
            published = self._vault.published(user)
        except StoreUnreachable:
            return Found(revision, False, None)
        except (Damaged, TemporaryError):
            published = None
        return Found(revision, False, published.key_id if published else b"")

    async def check_public(self, user: str, keys: list[PublicKey], found: Found) -> None:
        """Called at every login with a session.  Repairs run in a thread."""
        if found.public is not None and found.public != keys[-1].key_id:
            await self._pools.quick(lambda: self._vault.check_public(user, keys))

    async def key_in_use(self, user: str, keys: Sequence[PrivateKey]) -> PublicKey:
        """Of these (oldest first), the one with which this host seals."""
        own = [key.public for key in keys]
        if not self._vault.copy.exists:
            return own[-1]
        return in_use(await self._pools.look(lambda: self._vault.copy.key(user)), own)

    async def sealing_key(self, user: str) -> PublicKey | None:
        """The key with which this host seals, without a password.  None as in Vault.published()."""
        return await self._pools.look(lambda: self._sealing_key(user))

    def _sealing_key(self, user: str) -> PublicKey | None:
        published = self._vault.published(user)
        copied = None if published is None else self._vault.copy.key(user)
        if published is None or copied is None or copied == published:
            return published
        return in_use(copied, [*(key.public for key in self._vault.load(user).keys), published])

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
