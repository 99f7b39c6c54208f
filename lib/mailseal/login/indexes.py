# SPDX-License-Identifier: MIT
"""The indexes of enrolled users: encrypted folders, and caches in memory.

CONTRACT
    unlock() is called for each login before it is answered, and never fails.  sweep() is called
    every few seconds.  Both kinds are handled for each user: a user with an encrypted folder may
    have a cache in memory too, from services without a key (LMTP).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.errors import ConfigError, TemporaryError
from mailseal.index.folders import Folders, folder_name
from mailseal.login import anvil
from mailseal.login.caches import Caches
from mailseal.login.keeper import Keepers
from mailseal.login.open_folders import OpenFolders, Sessions
from mailseal.login.read_ahead import ReadAhead

_SWEEP_EVERY = 10.0
_TOLD_AFTER = 6
"""Sweeps: Dovecot may be restarting."""


class Indexes:
    """Both kinds of indexes; each may be None."""

    def __init__(
        self,
        folders: OpenFolders | None,
        caches: Caches | None,
        sessions: Sessions,
        *,
        lock_after: float,
        log: logging.Logger,
    ) -> None:
        self._log = log
        self._failed = 0
        self._folders = folders
        self._caches = caches
        self._sessions = sessions
        self._sweep_every = min(_SWEEP_EVERY, lock_after / 2)

    async def unlock(self, user: str, key: bytes) -> list[tuple[str, str]]:
        """The fields of a login with the key of this user's folder, if it has been unlocked."""
        if self._caches is not None:
            self._caches.note(user)
        return [] if self._folders is None else await self._folders.unlock(user, key)

    async def run(self) -> None:
        """Find the folders that an earlier agent has left unlocked; then call sweep() for ever."""
        adopting = None if self._folders is None else asyncio.create_task(self._folders.adopt())
        try:
            while True:
                await asyncio.sleep(self._sweep_every)
                try:
                    await self.sweep()
                except Exception as exc:  # the next one must come: folders would stay open
                    self._log.error("sweep of the indexes: unexpected %s", type(exc).__name__)
        finally:
            if adopting is not None:
                adopting.cancel()

    async def sweep(self) -> None:
        """Lock folders and remove caches that nobody uses."""
        named = await self._named()
        self._failed = 0 if named is not None else self._failed + 1
        if self._failed == _TOLD_AFTER:
            self._log.warning(
                "Dovecot has not said for a while who has connections: is the listener of "
                "dovecot.anvil_socket in its configuration?"
            )
        if self._folders is not None:
            await self._folders.sweep(named)
        if self._caches is not None:
            await self._caches.sweep(named)
            if self._folders is not None:
                await self._folders.tidy(self._caches.empty)

    async def lock(self, user: str) -> list[str]:
        """Lock and remove a user's index.  Returns the user if connections may need the folder."""
        locked = self._folders is not None and await self._folders.lock(user)
        if self._caches is not None:
            await self._caches.wipe(user)
        if not locked:
            return []
        named = await self._named()
        return [user] if named is None or user in named else []

    async def lock_all(self) -> list[str]:
        """Lock and remove all indexes.  Returns users whose connections may need their folders."""
        locked = {} if self._folders is None else await self._folders.lock_all()
        if self._caches is not None:
            await self._caches.wipe()
        named = await self._named() if locked else set()
        if named is None:
            return sorted(user for user in locked.values() if user)
        return sorted(user for user in named if folder_name(user) in locked)

    async def forget(self, user: str) -> None:
        """The user is not enrolled any more."""
        if self._caches is not None:
            await self._caches.wipe(user)
        if self._folders is not None:
            await self._folders.forget(user)

    async def stop(self) -> None:
        """Lock folders and remove caches that nobody uses.  The next agent does the rest."""
        named = await self._named()
        if self._folders is not None:
            await self._folders.stop(named)
        if self._caches is not None:
            await self._caches.stop(named)

    def fields_if_open(self, user: str) -> list[tuple[str, str]] | None:
        """The fields of a login for a folder that is unlocked; None if it is not."""
        return None if self._folders is None else self._folders.fields_if_open(user)

    def describe(self, user: str) -> dict[str, str]:
        """Where a user's index is, for `mailseal status`."""
        if self._folders is None:
            return {"state": "as in Dovecot's settings"}
        return self._folders.describe(user)

    @property
    def open_folders(self) -> int:
        """Number of encrypted folders that are unlocked."""
        return 0 if self._folders is None else self._folders.number_open

    def count_folders(self) -> int:
        """Number of encrypted folders.  Reads the directory: for a thread.  Raises OSError."""
        return 0 if self._folders is None else self._folders.count()

    async def _named(self) -> set[str] | None:
        """The users with connections; None if anvil cannot be asked."""
        with contextlib.suppress(TemporaryError):
            return await self._sessions()
        return None


def configured(
    config: Config,
    version: str,
    keepers: Keepers,
    is_enrolled: Callable[[str], bool],
    log: logging.Logger,
) -> Indexes:
    """Make it from the options."""

    async def sessions() -> set[str]:
        return await anvil.logged_in(config.dovecot.anvil_socket, version)

    after = config.index.lock_after
    caches = None
    if keepers.caches is not None:
        limits = (config.index.cache_per_user, config.index.cache_total)
        caches = Caches(keepers.caches, is_enrolled, limits=limits, wipe_after=after, log=log)
    folders = _folders(config, version, keepers, log)
    return Indexes(folders, caches, sessions, lock_after=after, log=log)


def _folders(
    config: Config, version: str, keepers: Keepers, log: logging.Logger
) -> OpenFolders | None:
    """None if the options ask for no folders."""
    if config.index.folder is None:
        return None
    try:
        owner = user_ids(config.delivery.user, "delivery.user")[0]
    except ConfigError as exc:
        log.warning("indexes are not encrypted: %s", exc)  # logins continue
        return None
    return OpenFolders(
        Folders(config.index.folder, owner),
        version=version,
        lock_after=config.index.lock_after,
        log=log,
        ahead=_ahead(config, keepers, log),
    )


def _ahead(config: Config, keepers: Keepers, log: logging.Logger) -> ReadAhead | None:
    """None if nothing is read ahead."""
    limit = config.index.read_ahead
    if keepers.ahead is None or limit is None:
        return None
    return ReadAhead(keepers.ahead, limit, log)
