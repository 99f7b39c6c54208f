# SPDX-License-Identifier: MIT
"""Users who enroll themselves: they type a part of the recovery code before anything is stored.

    begin     Dovecot accepts the password; keys and a recovery code are made
    finish    the user types two groups of the code and the password: keyring and public key
              are stored, in this order, with the slots of both

CONTRACT
    Between the two, all data are only in this process.  If it ends, or if the user does not
    continue within half an hour, nothing has changed: mail is stored as before.  After
    finish() the keyring opens with the password and with the code.
    Only an HMAC of the two groups is kept, not the code.

FAILURES
    WrongPassword.  AlreadyEnrolled.  BadPassword.  NotPermitted if no passdb checks passwords.
    UsageError: not begun, or wrong groups; after several wrong attempts the user must begin again.
"""

from __future__ import annotations

import hmac
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from mailseal.errors import NoSuchUser, NotPermitted, UsageError, WrongPassword
from mailseal.keys import codes
from mailseal.keys.keyring import Keyring, Opened
from mailseal.login.vault import Vault

CheckPassword = Callable[[str, bytes], None]
"""Asks Dovecot; raises WrongPassword, TemporaryError."""

_WITHIN = 1800.0
_AT_ONCE = 1000
_TRIES = 5
_GROUPS = 8


class _Begun:
    """A keyring that is not stored yet."""

    __slots__ = ("asked", "at", "opened", "proof", "tries")

    def __init__(self, opened: Opened, asked: Sequence[int], proof: bytes, at: float) -> None:
        self.opened = opened
        self.asked = asked
        self.proof = proof
        self.at = at
        self.tries = 0


class Newcomers:
    """The users who have begun.  Used by several threads."""

    def __init__(
        self,
        vault: Vault,
        check: CheckPassword | None,
        require_sealable: Callable[[str], None] = lambda user: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vault = vault
        self._check = check
        self._require_sealable = require_sealable
        self._clock = clock
        self._key = os.urandom(32)
        self._lock = threading.Lock()
        self._begun: OrderedDict[str, _Begun] = OrderedDict()

    @property
    def possible(self) -> bool:
        """Whether there is a passdb that can check the password of a new user."""
        return self._check is not None

    def prove(self, user: str, password: bytes) -> None:
        """Raise WrongPassword if Dovecot does not accept the password."""
        if self._check is None:
            raise NotPermitted("users cannot enroll themselves: no passdb checks their passwords")
        try:
            self._check(user, password)
        except NoSuchUser:  # do not reveal which users exist
            raise WrongPassword(f"wrong password for {user}") from None

    def admit(self, user: str, password: bytes) -> None:
        """prove(), and raise TemporaryError if Dovecot could not seal this user's mail."""
        self.prove(user, password)
        self._require_sealable(user)

    def begin(self, user: str, password: bytes) -> tuple[str, Sequence[int]]:
        """The recovery code, and the numbers of the groups that finish() asks for.

        The caller has called admit().
        """
        opened = self._vault.newcomer(user, password)
        _, code = opened.add_code(
            "recovery",
            "",
            self._vault.cost,
            now=self._vault.now(),
            derive=self._vault.derive,
        )
        asked = sorted(secrets.SystemRandom().sample(range(1, _GROUPS + 1), 2))
        groups = code.split("-")
        begun = _Begun(opened, asked, self._proof([groups[n - 1] for n in asked]), self._clock())
        with self._lock:
            self._drop(user)
            self._begun[user] = begun
            for late in [u for u, one in self._begun.items() if self._is_late(one)]:
                self._drop(late)
            while len(self._begun) > _AT_ONCE:
                self._drop(next(iter(self._begun)))
        return code, asked

    def finish(self, user: str, password: bytes, typed: Sequence[str]) -> Keyring:
        """Store the keyring.  The caller has called admit() again: the password may be new."""
        with self._lock:
            begun = self._begun.get(user)
            if begun is None or self._is_late(begun):
                self._drop(user)
                raise UsageError("this was not begun, or too long ago", hint="begin again")
            if not hmac.compare_digest(self._proof(typed), begun.proof):
                begun.tries += 1
                if begun.tries >= _TRIES:
                    self._drop(user)
                    raise UsageError("the code was typed wrongly too often", hint="begin again")
                raise UsageError("these are not the groups of the recovery code")
        keyring = begun.opened.keyring
        # The present password must open the keyring.
        keyring.unlock(password, derive=self._vault.derive).wipe()
        self._vault.store_newcomer(keyring)
        with self._lock:
            self._drop(user)
        return keyring

    def asked(self, user: str) -> Sequence[int]:
        """The numbers of the groups that finish() asks this user for; empty if not begun."""
        with self._lock:
            begun = self._begun.get(user)
            return () if begun is None or self._is_late(begun) else begun.asked

    def _is_late(self, begun: _Begun) -> bool:
        return self._clock() - begun.at > _WITHIN

    def _drop(self, user: str) -> None:
        begun = self._begun.pop(user, None)
        if begun is not None:
            begun.opened.wipe()

    def _proof(self, groups: Sequence[str]) -> bytes:
        plain = "".join(codes.plain_part(group) for group in groups)
        return hmac.digest(self._key, plain.encode("utf-8", "replace"), "sha256")
