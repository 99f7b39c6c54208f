# SPDX-License-Identifier: MIT
"""An existing user database in a lab.

A Chain starts its servers in the lab's folder, writes the file that Dovecot
reads, and can change a user's password there as a panel would.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.lab import Lab


class Chain:
    """One existing user database.  `snippet` names its file in dovecot-conf/2.3 and 2.4.

    The files for 2.3 contain the existing passdb too.  Those for 2.4 only change it, and
    `block_24` is the site's own block.
    """

    snippet = ""
    packages = ""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.passwords: dict[str, str] = {}

    @classmethod
    def missing(cls) -> str:
        """The packages that are missing for it; empty if none."""
        return ""

    def places(self) -> Mapping[str, str]:
        """The changes that a postmaster would make in the file."""
        return {}

    def block_24(self) -> str:
        """The existing passdb and userdb for Dovecot 2.4."""
        return ""

    def start(self) -> None:
        """Start servers, make tables."""

    def set_password(self, user: str, password: str) -> None:
        """Add a user or change the password, without mailseal."""
        self.passwords[user] = password

    def stop(self) -> None:
        """Stop the servers."""
