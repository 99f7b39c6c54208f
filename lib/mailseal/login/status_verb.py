# SPDX-License-Identifier: MIT
"""The agent's verb `status`: what is stored of one user or of all users, without secrets."""

from __future__ import annotations

import asyncio
import bisect
import json

from mailseal.errors import NotEnrolled
from mailseal.login import protocol
from mailseal.login.describe import describe
from mailseal.login.indexes import Indexes
from mailseal.login.protocol import Fields
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.vault import Vault
from mailseal.login.verbs import Answer, user_of

STATUS_PAGE = 200
"""Largest number of users in one answer to `status`."""

_LIST_FRESH = 60.0


class StatusVerb:
    """The verb, and the list of users from which its pages are made."""

    def __init__(
        self,
        vault: Vault,
        sessions: Sessions,
        pools: ThreadPools,
        indexes: Indexes | None = None,
    ) -> None:
        self._vault = vault
        self._sessions = sessions
        self._pools = pools
        self._indexes = indexes
        self._listing: list[str] | None = None
        self._forgets: asyncio.TimerHandle | None = None

    async def answer(self, fields: Fields) -> Answer:
        """One user, or the next page of all users, after `after`."""
        if "user" in fields:
            later = [user_of(fields)]
            if not await self._pools.quick(lambda: self._vault.is_known(later[0])):
                raise NotEnrolled(f"{later[0]} is not enrolled")
        else:
            after = fields.get("after", b"").decode("utf-8", "replace")
            listed = await self._listed(again=bool(after))
            at = bisect.bisect_right(listed, after)
            later = listed[at : at + STATUS_PAGE + 1]
        found = await self._pools.quick(lambda: self._page(later))
        answer = {"sessions": str(len(self._sessions)).encode()}
        answer["users"] = f"[{', '.join(found)}]".encode()
        return "ok", {**answer, "more": b"1"} if len(found) < len(later) else answer

    def _page(self, users: list[str]) -> list[str]:
        """Status entries in JSON, for as many of these users as fit into one answer."""
        found: list[str] = []
        size = 0
        for user in users[:STATUS_PAGE]:
            text = json.dumps(describe(user, self._vault, self._sessions, self._indexes))
            size += len(text) + 2
            if found and size > protocol.MAX_PAGE:
                break
            found.append(text)
        return found

    async def _listed(self, *, again: bool) -> list[str]:
        """All users, sorted.  The next pages use the same list, for a limited time.

        After that it is dropped: the names of 1,000,000 users take 70 MB.
        """
        if not again or self._listing is None:
            self._listing = await self._pools.quick(self._vault.users)
        if self._forgets is not None:
            self._forgets.cancel()
        self._forgets = asyncio.get_running_loop().call_later(_LIST_FRESH, self._forget)
        return self._listing

    def _forget(self) -> None:
        self._listing = self._forgets = None
