# SPDX-License-Identifier: MIT
"""Users who enroll themselves: they type a part of the recovery code before anything is stored.

    begin     Dovecot accepts the password; keys and a recovery code are made
    finish    the user types two groups of the code and the password: keyring and public key
              are stored, in this order, with the slots of both

CONTRACT
    Between the two, all data are only in this process (typed_back.py): mail is stored as before.
    After finish() the keyring opens with the password and with the code.

FAILURES
    WrongPassword.  AlreadyEnrolled.  BadPassword.  NotPermitted if no passdb checks passwords.
    UsageError from typed_back.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mailseal.errors import NoSuchUser, NotPermitted, WrongPassword
from mailseal.keys.keyring import Keyring, Opened
from mailseal.keys.password_slot import MAX_OPENING
from mailseal.login.typed_back import TypedBack
from mailseal.login.vault import Vault

CheckPassword = Callable[[str, bytes], None]
"""Asks Dovecot; raises WrongPassword, TemporaryError."""


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
        self._begun: TypedBack[Opened] = TypedBack(Opened.wipe, clock)

    @property
    def possible(self) -> bool:
        """Whether there is a passdb that can check the password of a new user."""
        return self._check is not None

    def prove(self, user: str, password: bytes) -> None:
        """Raise WrongPassword if Dovecot does not accept the password."""
        if self._check is None:
            raise NotPermitted("users cannot enroll themselves: no passdb checks their passwords")
        # Dovecot would close the connection for a very long one, which is no answer.
        if len(password) > MAX_OPENING:
            raise WrongPassword(f"wrong password for {user}")
        try:
            self._check(user, password)
        except NoSuchUser:  # do not reveal which users exist
            raise WrongPassword(f"wrong password for {user}") from None

    def require_sealable(self, user: str) -> None:
        """Raise TemporaryError if Dovecot could not seal this user's mail."""
        self._require_sealable(user)

    def begin(self, user: str, password: bytes) -> tuple[str, Sequence[int]]:
        """The recovery code, and the numbers of the groups that finish() asks for.

        The caller has called prove() and require_sealable().
        """
        opened = self._vault.newcomer(user, password)
        _, code = opened.add_code(
            "recovery",
            "",
            self._vault.cost,
            now=self._vault.now(),
            derive=self._vault.derive,
        )
        return code, self._begun.begin(user, code, opened)

    def finish(self, user: str, password: bytes, typed: Sequence[str]) -> Keyring:
        """Store the keyring.  The caller has called prove() again: the password may be new."""
        keyring = self._begun.check(user, typed).keyring
        # The present password must open the keyring.
        keyring.unlock(password, derive=self._vault.derive).wipe()
        self._vault.store_newcomer(keyring)
        self._begun.drop(user)
        return keyring

    def asked(self, user: str) -> Sequence[int]:
        """The numbers of the groups that finish() asks this user for; empty if not begun."""
        return self._begun.asked(user)
