# SPDX-License-Identifier: MIT
"""Requests of users that mailseal-sealer carries out as root; it asks the agent for them.

    leave   store the user's mail in clear and remove the keys; the private keys for this are kept
            here, in memory
    kick    end the user's IMAP and POP3 sessions

CONTRACT
    Nothing is stored on disk.  If the agent ends, keys that the service has not fetched are
    lost, and the user must ask again.  Requests to end sessions stay until the service says that
    it has ended them.  Keys are overwritten when the service has finished, when
    the user cancels the request, and after a day.

VERBS (agent.admin_users)
    chores        the users of both kinds; for the second kind with the number of the request
    kicked        kick: lines of `chores`: these sessions have been ended
    leave_keys    user: the private keys, and the id of this request
    leave_done    user, request: unenroll, and forget the keys; an error if the user stays now, has
                  asked again, or is not suspended any more: sealed mail may have arrived
    leave_failed  user, request: forget the keys; the user stays
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence

from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import NotEnrolled, TemporaryError
from mailseal.login.notes import Notes
from mailseal.login.protocol import Fields
from mailseal.login.sessions import pack, unpack
from mailseal.login.verbs import Answer, Verb, text_of, user_of

_FOR = 86400.0
_ALIVE = 60.0


@dataclasses.dataclass(frozen=True)
class _Leaving:
    """A request to leave.  A later one of the same user has another id."""

    id: str
    at: float
    keys: bytearray


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
        self._leaving: dict[str, _Leaving] = {}
        self._kicked: dict[str, tuple[int, float]] = {}
        self._numbers = itertools.count(1)
        self._finishing: set[str] = set()
        self._came = -_ALIVE
        self.verbs: dict[str, Verb] = {
            "chores": self._chores,
            "kicked": self._were_kicked,
            "leave_keys": self._keys,
            "leave_done": self._done,
            "leave_failed": self._failed,
        }

    @property
    def anybody_comes(self) -> bool:
        """Whether the service has asked within the last minute."""
        return self._clock() - self._came < _ALIVE

    def leave(self, user: str, keys: Sequence[PrivateKey]) -> None:
        """Add a request to leave."""
        self.stay(user)
        self._leaving[user] = _Leaving(secrets.token_hex(8), self._clock(), pack(keys))

    def stay(self, user: str) -> None:
        """This user does not leave.  Raises TemporaryError if the keys are being removed now."""
        if user in self._finishing:
            raise TemporaryError(f"{user} is being unenrolled at this moment")
        self._forget_keys(user)

    def _forget_keys(self, user: str) -> None:
        waiting = self._leaving.pop(user, None)
        if waiting is not None:
            waiting.keys[:] = bytes(len(waiting.keys))

    def leaves(self, user: str) -> bool:
        """Whether there is a request to leave."""
        return user in self._leaving

    def kick(self, user: str) -> None:
        """Add a request to end this user's sessions."""
        self._kicked[user] = (next(self._numbers), self._clock())

    async def _chores(self, fields: Fields) -> Answer:
        self._came = self._clock()
        for user in [u for u, one in self._leaving.items() if self._came - one.at > _FOR]:
            self._forget_keys(user)
        for user in [u for u, (_, at) in self._kicked.items() if self._came - at > _FOR]:
            del self._kicked[user]
        kick = (f"{number} {user}" for user, (number, _) in self._kicked.items())
        return "ok", {"leave": _lines(self._leaving), "kick": _lines(kick)}

    async def _were_kicked(self, fields: Fields) -> Answer:
        for line in text_of(fields, "kick").split("\n"):
            number, _, user = line.partition(" ")
            # A user who has asked again in the meantime has another number.
            if str(self._kicked.get(user, ("",))[0]) == number:
                del self._kicked[user]
        return "ok", {}

    async def _keys(self, fields: Fields) -> Answer:
        user = user_of(fields)
        if user not in self._leaving:
            raise NotEnrolled(f"{user} has not asked for this")
        request = self._leaving[user]
        keys = unpack(request.keys)
        self._log.warning("leave: user=<%s>, private keys given to mailseal-sealer", user)
        lines = "\n".join(key.dovecot_string() for key in keys)
        return "ok", {"keys": lines.encode(), "request": request.id.encode()}

    async def _done(self, fields: Fields) -> Answer:
        user = self._same(fields)
        self._finishing.add(user)
        try:
            with contextlib.suppress(NotEnrolled):
                await self._unenroll({"user": user.encode(), "suspended": b"1"})
        finally:
            self._finishing.discard(user)
        self._forget_keys(user)
        self._notes.forget(user)
        return "ok", {}

    async def _failed(self, fields: Fields) -> Answer:
        user = self._same(fields)
        self.stay(user)
        self._log.warning("leave: user=<%s>, given up, the user stays enrolled", user)
        return "ok", {}

    def _same(self, fields: Fields) -> str:
        """The user, if this is still the request that leave_keys has answered."""
        user, request = user_of(fields), text_of(fields, "request")
        if user not in self._leaving or self._leaving[user].id != request:
            raise NotEnrolled(f"{user} does not leave any more, or has asked again")
        return user


def _lines(lines: Iterable[str]) -> bytes:
    return "\n".join(lines).encode()
