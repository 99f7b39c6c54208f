# SPDX-License-Identifier: MIT
"""Which key pairs a user's stored mail is sealed to: looked up in the files, as their owner.

The key agent cannot read mail, so this is done by who runs the command.

FAILURES
    TemporaryError if a folder or a file cannot be read: what is not seen is not counted as absent.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mailseal import durable
from mailseal.crypto import dcrypt
from mailseal.errors import Damaged, MailsealError

if TYPE_CHECKING:
    from mailseal.admin.command import Context

UNREADABLE = b""
"""Stands for the key of a sealed file whose header does not say it."""


def folders(context: Context, user: str) -> tuple[list[str], str]:
    """Where mail of the user may lie, and why that may be not all, if so."""
    from mailseal.delivery.dovecot import settings, userdb

    named = [os.path.abspath(path) for path in context.arguments.maildir]
    try:
        known = settings.known(context.config)
        account = userdb.from_config(context.config, known).lookup(user)
    except MailsealError as exc:
        return named, f"it is not known where the mail of {user} lies ({exc})"
    if account is None:
        return named, "" if named else f"the user database does not know {user}"
    if account.maildir is None:
        return named, f"the mail of {user} does not lie in a Maildir"
    if not os.path.isdir(os.path.dirname(account.maildir)):
        return named, f"{os.path.dirname(account.maildir)} is not there (not mounted?)"
    return [*named, account.maildir], ""


def count(places: Sequence[str]) -> Counter[bytes]:
    """Sealed files anywhere below these folders, by key id.  A missing folder has none."""
    found: Counter[bytes] = Counter()
    # Links are followed, as Dovecot does; each folder is searched once.
    seen: set[tuple[int, int]] = set()
    for place in places:
        if os.path.lexists(place):
            _count_below(place, seen, found)
    return found


def _count_below(place: str, seen: set[tuple[int, int]], found: Counter[bytes]) -> None:
    def failed(exc: OSError) -> None:
        raise durable.error_of(exc, f"cannot search {place}")

    for where, inside, names in os.walk(place, onerror=failed, followlinks=True):
        with durable.reporting(f"cannot search {where}"):
            stat = os.stat(where)
        if (stat.st_dev, stat.st_ino) in seen:
            inside.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        for name in names:
            path = os.path.join(where, name)
            if not os.path.isfile(path):
                continue
            with durable.reporting(f"cannot read {path}"), open(path, "rb") as stream:
                found.update(_keys_of(stream.read(dcrypt.MAX_HEADER)))


def _keys_of(start: bytes) -> Sequence[bytes]:
    if not dcrypt.is_sealed(start):
        return ()
    try:
        return dcrypt.inspect(start).key_ids
    except Damaged:
        return (UNREADABLE,)
