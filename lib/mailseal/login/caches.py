# SPDX-License-Identifier: MIT
"""Index caches in memory: removed after a user's last connection has ended, and limited in size.

CONTRACT
    sweep() removes the cache of each enrolled user who has had no connection for `wipe_after`
    seconds.  If a limit is exceeded, it also removes the least recently used caches of any users.
    If anvil cannot be asked, only the limits apply.  wipe() removes a cache at once.

    The agent cannot change files of the owner of the mail.  A process of this owner does it
    (keeper.py).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import time
from collections.abc import Callable

from mailseal.errors import BadUserName, MailsealError
from mailseal.index import memory
from mailseal.keys.names import normalise
from mailseal.login.keeper import Keeper

_PLAIN_FOR = 600.0


class Caches:
    """Decides which caches the Keeper removes.  Used by the event loop only."""

    def __init__(
        self,
        keeper: Keeper,
        is_enrolled: Callable[[str], bool],
        *,
        limits: tuple[int, int],
        wipe_after: float,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keeper = keeper
        self._is_enrolled = is_enrolled
        self._per_user, self._total = limits
        self._wipe_after = wipe_after
        self._log = log
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._plain: dict[str, float] = {}
        self._problem = ""
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="caches")

    def note(self, user: str) -> None:
        """Note a login."""
        self._seen[user] = self._clock()
        self._plain.pop(user, None)

    async def sweep(self, named: set[str] | None) -> None:
        """Remove caches over the limits, and those of all but these users (None: unknown)."""
        now = self._clock()
        for user in named or ():
            self._seen[user] = now
        if named is not None:
            self._seen = {u: at for u, at in self._seen.items() if now - at < self._wipe_after}
        users = None if named is None else set(self._seen)
        await self._quietly(lambda: self._tidy(users))

    async def wipe(self, user: str | None = None) -> None:
        """Remove the caches of one user, or of all enrolled users, even if they are in use."""
        if user is None:
            self._seen.clear()
            await self._quietly(lambda: self._tidy(set()))
        else:
            self._seen.pop(user, None)
            await self._quietly(lambda: self._wipe_names(lambda name: _normal(name) == user))

    async def empty(self, root: str, names: list[str]) -> None:
        """Remove what is in these folders, if there is a process that can."""
        for name in names:
            await self._quietly(functools.partial(self._keeper.empty, root, name))

    async def stop(self, named: set[str] | None) -> None:
        """Remove the caches of all but these users."""
        self._seen.clear()
        await self.sweep(named)
        self._thread.shutdown()

    def _tidy(self, users: set[str] | None) -> None:
        found = self._keeper.measure()
        gone = memory.over_limits(found, self._per_user, self._total)
        if gone:
            self._log.info("index caches too large, wiped: %d", len(gone))
        if users is not None:
            unused = [one.name for one in found if _normal(one.name) not in users]
            gone += [name for name in unused if self._is_ours(_normal(name))]
        self._keeper.wipe(gone)

    def _is_ours(self, user: str) -> bool:
        """Whether the user is enrolled; False if that is not known.

        A "no" is kept for a while: a site may have many users who are not enrolled, whose caches
        stay, and a look-up may be a query of a database.
        """
        now = self._clock()
        if not user or now - self._plain.get(user, -_PLAIN_FOR) < _PLAIN_FOR:
            return False
        try:
            enrolled = self._is_enrolled(user)
        except MailsealError:
            return False
        if not enrolled:
            self._plain[user] = now
        return enrolled

    def _wipe_names(self, wanted: Callable[[str], bool]) -> None:
        self._keeper.wipe([one.name for one in self._keeper.measure() if wanted(one.name)])

    async def _quietly(self, job: Callable[[], object]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, job)
        except (OSError, ValueError, MailsealError) as exc:
            if str(exc) != self._problem:
                self._problem = str(exc)
                self._log.warning("index caches in memory are not wiped: %s", exc)


def _normal(name: str) -> str:
    """The user of this folder; empty if it is not a user's folder."""
    try:
        return normalise(name)
    except BadUserName:
        return ""
