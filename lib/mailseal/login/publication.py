# SPDX-License-Identifier: MIT
"""Checks whether the published key is the user's own, and publishes the right one again.

FAILURES
    Damaged: the published key is not the user's, until an administrator repairs it.
    TemporaryError: the user is being unenrolled, or the keyring was just removed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import Damaged, MailsealError, NotEnrolled, TemporaryError
from mailseal.keys.stores import Change, KeyStores


class Publication:
    """Compares keyrings with published keys."""

    def __init__(self, stores: KeyStores, log: logging.Logger) -> None:
        self._stores = stores
        self._log = log

    def check(self, user: str, keys: Sequence[PublicKey]) -> None:
        """Compare the published key with the opened ones (oldest first).

        A key that is missing, damaged or one of the user's older ones is
        published again, with a warning.  A key that is not the user's raises
        Damaged until an administrator acts: mail may have been sealed to it.
        """
        if self._published(user) == ("", keys[-1].key_id):
            return
        # The keyring may have changed since it was read (rotate, unenroll): compare again, with
        # the stored keyring, while it is locked.
        with self._stores.transaction(user) as change:
            try:
                keys = [key.public for key in change.keyring().keys]
            except NotEnrolled:
                raise TemporaryError(f"the keyring of {user} was removed just now") from None
            self._publish_again(change, keys)

    def _published(self, user: str) -> tuple[str, bytes]:
        """What is wrong with the published key, and its id."""
        try:
            published = self._stores.public.lookup(user)
        except Damaged:
            return "damaged", b""
        except TemporaryError:
            if not self._stores.public.is_marked(user):
                raise
            return "missing or unreadable", b""
        return ("not published", b"") if published is None else ("", published.key_id)

    def _publish_again(self, change: Change, keys: Sequence[PublicKey]) -> None:
        user = change.user
        if self._stores.public.is_suspended(user):
            raise TemporaryError(
                f"{user} is being unenrolled",
                hint=f"to keep the user, run `mailseal repair {user}`",
            )
        state, found = self._published(user)
        current = keys[-1]
        if found == current.key_id:
            return
        if not state and all(found != key.key_id for key in keys):
            self._log.critical(
                "user=<%s>, PUBLIC KEY REPLACED: mail is being sealed to the foreign key "
                "id=%s instead of %s; find out who did it, then run `mailseal repair %s`",
                user,
                found.hex(),
                current.key_id.hex(),
                user,
            )
            raise Damaged(
                f"the public key of {user} was replaced by another one",
                hint=f"find out who did it, then run `mailseal repair {user}`",
            )
        change.publish(current)
        self._log.warning(
            "user=<%s>, public key was %s, published it again", user, state or "an older one"
        )

    def repair(self, user: str) -> str:
        """Publish the current key of the keyring.  Returns what was wrong."""
        with self._stores.transaction(user) as change:
            keyring = change.keyring()
            try:
                published = self._stores.public.lookup(user)
            except MailsealError as exc:
                found = str(exc)
            else:
                marked = self._stores.public.is_marked(user)
                if published and published.key_id == keyring.current.key_id and marked:
                    return ""
                found = "not published" if published is None else f"was {published.key_id.hex()}"
                found = found if marked else "not marked as enrolled"
            change.publish(keyring.current)
        self._log.warning("user=<%s>, public key repaired (%s)", user, found)
        return found

    def publish_missing(self) -> None:
        """Publish the keys of keyrings without a mark, after a crash during enrollment."""
        for user in self._stores.keyrings.users():
            if not self._stores.public.is_marked(user):
                with contextlib.suppress(MailsealError):
                    self.repair(user)
