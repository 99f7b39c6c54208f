# SPDX-License-Identifier: MIT
"""What the options login.* say about logins."""

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
    """Whether there is no other password check, so that every login counts as vouched for."""

    def enrolls(self, user: str) -> bool:
        """Whether this user gets a key pair at the first login."""
        if not self.enroll_at_login:
            return False
        domain = "@" + user.rpartition("@")[2]
        return not self.enroll_for or user in self.enroll_for or domain in self.enroll_for
