# SPDX-License-Identifier: MIT
"""Waits until all hosts that need a change of a public key have it.

CONTRACT
    enrolled() returns when no host considers the user not enrolled: each host has confirmed the
    change, or its lease has expired, or it defers the mail.
    key() returns when no host seals with an older key: each host has confirmed the change.
    rotated() waits as enrolled() does.  Then it says which hosts may still seal with an older key:
    no error, because the keyring opens that mail too, and a second try would make another pair.
    If the keys are in files, both return at once.

FAILURES
    TemporaryError: the change is stored, but it is not certain that all hosts have it.
"""

from __future__ import annotations

import asyncio
import time

from mailseal.errors import StoreUnreachable, TemporaryError
from mailseal.keys.stores import PublicKeys
from mailseal.login.protocol import Fields
from mailseal.login.thread_pools import ThreadPools

_LOOK = 0.1
_PATIENCE = 90.0
"""Seconds.  Longer than the longest lease with its margin; commands wait longer than this."""

_PATIENCE_KEY = 20.0


class Everywhere:
    """Used by the agent's verbs."""

    def __init__(self, public: PublicKeys, pools: ThreadPools) -> None:
        self._public = public
        self._pools = pools

    async def enrolled(self, user: str) -> None:
        """See the contract."""
        names = await self._wait(user, _PATIENCE, of_key=False)
        if names:
            raise TemporaryError(
                f"{user} is enrolled, but these hosts may not know it: {names}",
                hint=f"run `mailseal repair {user}`; see docs/several-hosts.md",
            )

    async def key(self, user: str) -> None:
        """See the contract."""
        names = await self._wait(user, _PATIENCE_KEY, of_key=True)
        if names:
            raise TemporaryError(
                f"these hosts may still seal mail of {user} with an older key: {names}",
                hint="start mailseal-replica there; for a host that was rebooted or will "
                "never come back, run `mailseal hosts --forget NAME`",
            )

    async def rotated(self, user: str) -> Fields:
        """See the contract: a field `warning`, or none."""
        try:
            await self._wait(user, _PATIENCE, of_key=False)
            names = await self._unaware(user, of_key=True)
        except TemporaryError as exc:
            return {"warning": f"other hosts may still seal with an older key pair: {exc}".encode()}
        if not names:
            return {}
        text = f"these hosts still seal mail of {user} with an older key pair: {', '.join(names)}"
        return {"warning": f"{text}; `mailseal hosts` shows when they were seen".encode()}

    async def _wait(self, user: str, patience: float, *, of_key: bool) -> str:
        end = time.monotonic() + patience
        while True:
            try:
                names = await self._unaware(user, of_key=of_key)
            except StoreUnreachable as exc:
                raise TemporaryError(
                    f"the change is stored, but it is not certain that all hosts know it: {exc}",
                    hint=f"when the database answers, run `mailseal repair {user}`",
                ) from None
            if not names or time.monotonic() > end:
                return ", ".join(names)
            await asyncio.sleep(_LOOK)

    async def _unaware(self, user: str, *, of_key: bool) -> list[str]:
        return await self._pools.quick(lambda: self._public.unaware(user, of_key=of_key))
