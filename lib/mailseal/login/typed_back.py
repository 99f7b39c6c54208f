# SPDX-License-Identifier: MIT
"""Changes that wait until the user has typed back two groups of a code.

CONTRACT
    They are only in this process.  If it ends, or if the user does not continue within half an
    hour, nothing has changed.  For each user there is one; a later one replaces it.
    Of the code, only an HMAC of the two groups is kept.

FAILURES
    check() raises UsageError: not begun, or wrong groups; after several wrong attempts the user
    must begin again.
"""

from __future__ import annotations

import dataclasses
import hmac
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from mailseal.errors import UsageError
from mailseal.keys import codes

_T = TypeVar("_T")

_WITHIN = 1800.0
_AT_ONCE = 1000
_TRIES = 5
_GROUPS = 8


@dataclasses.dataclass
class _Waiting(Generic[_T]):
    change: _T
    asked: Sequence[int]
    proof: bytes
    at: float
    tries: int = 0


class TypedBack(Generic[_T]):
    """The changes of one kind.  Used by several threads.  `wipe` is called for each at its end."""

    def __init__(self, wipe: Callable[[_T], None], clock: Callable[[], float]) -> None:
        self._wipe = wipe
        self._clock = clock
        self._key = os.urandom(32)
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, _Waiting[_T]] = OrderedDict()

    def begin(self, user: str, code: str, change: _T) -> Sequence[int]:
        """The numbers of the groups that the user must type."""
        asked = sorted(secrets.SystemRandom().sample(range(1, _GROUPS + 1), 2))
        groups = code.split("-")
        proof = self._proof([groups[n - 1] for n in asked])
        with self._lock:
            self._drop(user)
            self._waiting[user] = _Waiting(change, asked, proof, self._clock())
            for late in [u for u, one in self._waiting.items() if self._is_late(one)]:
                self._drop(late)
            while len(self._waiting) > _AT_ONCE:
                self._drop(next(iter(self._waiting)))
        return asked

    def asked(self, user: str) -> Sequence[int]:
        """The numbers of the groups that this user must type; empty if not begun."""
        with self._lock:
            one = self._waiting.get(user)
            return () if one is None or self._is_late(one) else one.asked

    def check(self, user: str, typed: Sequence[str]) -> _T:
        """The change, if these are the groups.  It waits until drop()."""
        with self._lock:
            one = self._waiting.get(user)
            if one is None or self._is_late(one):
                self._drop(user)
                raise UsageError("this was not begun, or too long ago", hint="begin again")
            if not hmac.compare_digest(self._proof(typed), one.proof):
                one.tries += 1
                if one.tries >= _TRIES:
                    self._drop(user)
                    raise UsageError("the code was typed wrongly too often", hint="begin again")
                raise UsageError("these are not the groups of the recovery code")
            return one.change

    def drop(self, user: str) -> None:
        """This change does not wait any more."""
        with self._lock:
            self._drop(user)

    def _is_late(self, one: _Waiting[_T]) -> bool:
        return self._clock() - one.at > _WITHIN

    def _drop(self, user: str) -> None:
        one = self._waiting.pop(user, None)
        if one is not None:
            self._wipe(one.change)

    def _proof(self, groups: Sequence[str]) -> bytes:
        plain = "".join(codes.plain_part(group) for group in groups)
        return hmac.digest(self._key, plain.encode("utf-8", "replace"), "sha256")
