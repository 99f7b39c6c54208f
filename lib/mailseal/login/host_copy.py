# SPDX-License-Identifier: MIT
"""What the agent does with this host's copy of the public keys, if they are in a database.

The copy may be older than the database: just after a change on another host, or while
mailseal-replica hangs.  And the database may be older than the copy: one that was cut off and still
answers, or one that was lost or restored.

CONTRACT
    "Not known" from the database counts only if the copy agrees: must_not_know().
    Dovecot's userdb and mailseal-lmtp seal with the key in the copy, and the userdb refuses a login
    with any other key.  Only the agent can know that the key in the copy is one of the user's own;
    then it is the one that a login gets: in_use().
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import MailsealError, TemporaryError
from mailseal.keys.stores import PublicKeys


class HostCopy:
    """The copy; `store` is None if the public keys are in files: then all hosts read these."""

    def __init__(self, store: PublicKeys | None) -> None:
        self._store = store

    @property
    def exists(self) -> bool:
        """Whether there is a copy."""
        return self._store is not None

    def must_not_know(self, user: str, *, certainly: bool = False) -> None:
        """The database does not know the user.  Raises TemporaryError if the copy does.

        `certainly`: also if the copy is not certainly current (keys/lease.py), because mail of the
        user would be stored in clear.
        """
        if self._store is None:
            return
        if self._store.is_marked(user) or (certainly and self._store.lookup(user) is not None):
            raise TemporaryError(
                f"{user} is enrolled in this host's copy of the public keys, not in the database"
            )

    def key(self, user: str) -> PublicKey | None:
        """The key in the copy.  None if there is none; then the userdb decides."""
        if self._store is not None:
            with contextlib.suppress(MailsealError):
                return self._store.lookup(user)
        return None


def in_use(copied: PublicKey | None, own: Sequence[PublicKey]) -> PublicKey:
    """The key with which this host seals; `own` are the user's keys, the one for new mail last."""
    return copied if copied is not None and copied in own else own[-1]
