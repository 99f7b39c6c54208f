# SPDX-License-Identifier: MIT
"""The options login.* for logins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Policy:
    """The options login.*."""

    enroll_at_login: bool = False
    enroll_for: Sequence[str] = ()
    keyless: frozenset[str] = frozenset()
    keyring_decides: bool = False
    """Whether the keyring is the only password check, so a right password is always current."""

    def enrolls(self, user: str) -> bool:
        """Whether this user gets a key pair at the first login."""
        if not self.enroll_at_login:
            return False
        domain = "@" + user.rpartition("@")[2]
        return not self.enroll_for or user in self.enroll_for or domain in self.enroll_for
