# SPDX-License-Identifier: MIT
"""Finds out which key pairs a user's stored mail is sealed with, by reading the files.

The key agent cannot read mail, so the user who runs the command reads it; for mailseal-sealer, a
process of the owner of the mail.

FAILURES
    TemporaryError if a folder or a file cannot be read: it could contain sealed mail.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mailseal import durable
from mailseal.crypto import dcrypt
from mailseal.errors import Damaged, MailsealError

if TYPE_CHECKING:
    from mailseal.admin.command import Context
    from mailseal.config import Config

UNREADABLE = b""
"""Used instead of a key id for a sealed file with a damaged header."""


def folders(context: Context, user: str) -> tuple[list[str], str]:
    """The folders with the user's mail, and why this list may be incomplete, or ""."""
    return folders_of(context.config, user, context.arguments.maildir)


def folders_of(config: Config, user: str, more: Sequence[str] = ()) -> tuple[list[str], str]:
    """The same without a command.  `more`: further folders."""
    from mailseal.admin import namespaces
    from mailseal.delivery.dovecot import settings, userdb

    named = [os.path.abspath(path) for path in more]
    try:
        known = settings.known(config)
        account = userdb.from_config(config, known).lookup(user)
    except MailsealError as exc:
        return named, f"the mail location of {user} is not known ({exc})"
    if account is None:
        return named, "" if named else f"the user database does not know {user}"
    if not account.located:
        return named, f"the mail location of {user} is not known (Dovecot's settings are not known)"
    if account.maildir is None:
        return named, f"the mail of {user} is not in a Maildir"
    if not os.path.isdir(os.path.dirname(account.maildir)):
        return named, f"{os.path.dirname(account.maildir)} does not exist (not mounted?)"
    others = namespaces.others(settings.imap(config), account.user, account.home)
    found = [*named, account.maildir, *(one.maildir for one in others if one.maildir)]
    for one in others:
        if one.own and one.why:
            return found, f"{user} may have sealed mail in {one.prefix}, {one.why}"
    return found, ""


def count(places: Sequence[str]) -> Counter[bytes]:
    """Number of sealed files below these folders, for each key id.  A folder may be missing."""
    found: Counter[bytes] = Counter()
    # Links are followed, as Dovecot does; each folder is searched once.
    seen: set[tuple[int, int]] = set()
    for place in places:
        if os.path.lexists(place):
            _count_below(place, seen, found)
    return found


def total(owner: tuple[int, int], places: Sequence[str]) -> int:
    """Number of all sealed files, counted by a process of this owner: root opens none of them."""
    from mailseal.admin import crew

    def job() -> Iterator[crew.Message]:
        yield {"sealed": count(places).total()}

    return sum(message["sealed"] for message in crew.run(owner, [job]))


def _count_below(place: str, seen: set[tuple[int, int]], found: Counter[bytes]) -> None:
    def failed(exc: OSError) -> None:
        raise durable.error_of(exc, f"cannot search {place}")

    for where, inside, names in os.walk(place, onerror=failed, followlinks=True):
        with durable.reporting(f"cannot search {where}"):
            found_here = os.stat(where)
        if (found_here.st_dev, found_here.st_ino) in seen:
            inside.clear()
            continue
        seen.add((found_here.st_dev, found_here.st_ino))
        for name in names:
            path = os.path.join(where, name)
            if not os.path.isfile(path):
                continue
            with durable.reporting(f"cannot read {path}"):
                found.update(_keys_of(_start_of(path)))


def _start_of(path: str) -> bytes:
    """The start of a file; nothing if it is a FIFO or a device by now, which could block."""
    with open(path, "rb", opener=lambda name, how: os.open(name, how | os.O_NONBLOCK)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return b""
        return stream.read(dcrypt.MAX_HEADER)


def _keys_of(start: bytes) -> Sequence[bytes]:
    if not dcrypt.is_sealed(start):
        return ()
    try:
        return dcrypt.inspect(start).key_ids
    except Damaged:
        return (UNREADABLE,)
