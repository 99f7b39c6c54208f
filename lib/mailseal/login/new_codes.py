# SPDX-License-Identifier: MIT
"""A new recovery code in two steps, so that the older one is valid until the new one is kept.

    begin     a code is made and shown; nothing is stored
    finish    the user types two groups of it and the password: it replaces the older ones

CONTRACT
    Until finish() has stored the keyring, the older code is valid, and the new one is not.  So it
    does not matter if an answer is lost or a program is killed in between.
    Of a code that nobody has typed back, nothing is left after half an hour (typed_back.py).

FAILURES
    WrongPassword, Conflict, and others of lifecycle.py.
    UsageError from typed_back.py, or if the keyring has another master key since begin().
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mailseal.keys.slot import Slot
from mailseal.login.lifecycle import Lifecycle
from mailseal.login.typed_back import TypedBack
from mailseal.login.vault import Vault


class NewCodes:
    """The users who have begun.  Used by several threads.  A waiting slot contains no secret."""

    def __init__(self, vault: Vault, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._life = Lifecycle(vault)
        self._begun: TypedBack[Slot] = TypedBack(lambda slot: None, clock)

    def begin(self, user: str, password: bytes) -> tuple[str, Sequence[int]]:
        """The code, and the numbers of the groups that finish() asks for."""
        slot, code = self._life.make_recovery_code(user, password)
        return code, self._begun.begin(user, code, slot)

    def finish(self, user: str, password: bytes, typed: Sequence[str]) -> None:
        """Let the code replace the older ones.

        The password is checked first: otherwise strangers could use up the attempts.
        """
        self._life.replace_recovery_code(user, password, lambda: self._begun.check(user, typed))
        self._begun.drop(user)

    def asked(self, user: str) -> Sequence[int]:
        """The numbers of the groups that finish() asks this user for; empty if not begun."""
        return self._begun.asked(user)
