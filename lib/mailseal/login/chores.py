# SPDX-License-Identifier: MIT
"""Requests of users that mailseal-sealer carries out as root; it asks the agent for them.

    leave   store the user's mail in clear and remove the keys; the private keys for this are kept
            here, in memory
    kick    end the user's IMAP and POP3 sessions

CONTRACT
    Nothing is stored on disk.  If the agent ends, keys that the service has not fetched are
    lost, and the user must ask again.  Keys are overwritten when the service has finished, when
    the user cancels the request, and after a day.

VERBS (agent.admin_users)
    chores        the users of both kinds; requests to end sessions are removed from the list
    leave_keys    user: the private keys
    leave_done    user: unenroll, and forget the keys; an error if the user stays now
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import NotEnrolled, TemporaryError
from mailseal.login.notes import Notes
from mailseal.login.protocol import Fields
from mailseal.login.sessions import pack, unpack
from mailseal.login.verbs import Answer, Verb, user_of

_FOR = 86400.0
_ALIVE = 60.0


class Chores:
    """All requests.  Used by the event loop only, not by several threads."""

    def __init__(
        self,
        notes: Notes,
        unenroll: Verb,
        log: logging.Logger,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`unenroll` is the verb for administrators."""
        self._notes = notes
        self._unenroll = unenroll
        self._log = log
        self._clock = clock
        self._leaving: dict[str, tuple[float, bytearray]] = {}
        self._kicked: dict[str, None] = {}
        self._finishing: set[str] = set()
        self._came = -_ALIVE
        self.verbs: dict[str, Verb] = {
            "chores": self._chores,
            "leave_keys": self._keys,
            "leave_done": self._done,
        }

    @property
    def anybody_comes(self) -> bool:
        """Whether the service has asked within the last minute."""
        return self._clock() - self._came < _ALIVE

    def leave(self, user: str, keys: Sequence[PrivateKey]) -> None:
        """Add a request to leave."""
        self.stay(user)
        self._leaving[user] = (self._clock(), pack(keys))

    def stay(self, user: str) -> None:
        """This user does not leave.  Raises TemporaryError if the keys are being removed now."""
        if user in self._finishing:
            raise TemporaryError(f"{user} is being unenrolled at this moment")
        self._forget_keys(user)

    def _forget_keys(self, user: str) -> None:
        waiting = self._leaving.pop(user, None)
        if waiting is not None:
            waiting[1][:] = bytes(len(waiting[1]))

    def leaves(self, user: str) -> bool:
        """Whether there is a request to leave."""
        return user in self._leaving

    def kick(self, user: str) -> None:
        """Add a request to end this user's sessions."""
        self._kicked[user] = None

    async def _chores(self, fields: Fields) -> Answer:
        self._came = self._clock()
        for user in [u for u, (at, _) in self._leaving.items() if self._came - at > _FOR]:
            self._forget_keys(user)
        kicked, self._kicked = self._kicked, {}
        return "ok", {"leave": _lines(self._leaving), "kick": _lines(kicked)}

    async def _keys(self, fields: Fields) -> Answer:
        user = user_of(fields)
        if user not in self._leaving:
            raise NotEnrolled(f"{user} has not asked for this")
        keys = unpack(self._leaving[user][1])
        self._log.warning("leave: user=<%s>, private keys given to mailseal-sealer", user)
        return "ok", {"keys": "\n".join(key.dovecot_string() for key in keys).encode()}

    async def _done(self, fields: Fields) -> Answer:
        user = user_of(fields)
        if user not in self._leaving:
            raise NotEnrolled(f"{user} does not leave any more")
        self._finishing.add(user)
        try:
            with contextlib.suppress(NotEnrolled):
                await self._unenroll({"user": user.encode()})
        finally:
            self._finishing.discard(user)
        self._forget_keys(user)
        self._notes.forget(user)
        return "ok", {}


def _lines(users: Iterable[str]) -> bytes:
    return "\n".join(users).encode()
