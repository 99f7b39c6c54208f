# SPDX-License-Identifier: MIT
"""mailseal unenroll: forget a user's keys for ever, if no sealed mail needs them.

First mail for the user is made to wait and logins are kept out.  Then the user's
Maildir, as the user database names it, and every --maildir is searched.  While
one sealed mail is there, or while it cannot be told, the command refuses, says
the sentence that --force takes, and all is as before.  Killed half-way it leaves
mail waiting: run it again, or `mailseal repair USER`.
An IMAP session that is open goes on sealing with the old key: `doveadm kick USER`.

FAILURES
    UsageError with what would be lost; TemporaryError if a folder cannot be read.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from mailseal import durable
from mailseal.crypto import dcrypt
from mailseal.errors import MailsealError, NotEnrolled, UsageError
from mailseal.keys.names import normalise

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context


# A mail whose key was looked up is stored within this time, in seconds: the key is looked up
# after the mail has come in, and sealing, writing and syncing 100 MB took 1.2 s.
_UNDER_WAY = 3.0


def register(commands: Commands) -> None:
    """Add this module's commands."""
    parser = commands.add("unenroll", unenroll, "forget a user's keys for ever")
    parser.add_argument("user", metavar="USER")
    parser.add_argument(
        "--maildir", action="append", default=[], help="search this folder too (may be repeated)"
    )
    parser.add_argument("--force", metavar="SENTENCE", help="lose the mail that is still sealed")


def unenroll(context: Context) -> int:
    """See the module's docstring."""
    arguments = context.arguments
    user = normalise(os.fsencode(arguments.user))
    context.ask("status", user=user.encode())
    # Before logins are kept out: Dovecot's user database may be the keyrings themselves.
    folders, doubt = _folders(context, user)
    suspended = _suspend(context, user)
    try:
        _require_no_sealed_mail(context, user, folders, doubt)
    except BaseException:
        if suspended:
            context.ask("repair", user=user.encode())
        raise
    context.ask("unenroll", user=user.encode())
    sys.stdout.write(f"{user} is not enrolled any more, the keys are gone\n")
    sys.stderr.write(
        f"mailseal: hint: an open IMAP session still seals with them: `doveadm kick {user}`\n"
    )
    return 0


def _suspend(context: Context, user: str) -> bool:
    """Whether mail is kept back now: not if there is no keyring (any more)."""
    try:
        context.ask("suspend", user=user.encode())
    except NotEnrolled:
        return False
    time.sleep(_UNDER_WAY)
    return True


def _require_no_sealed_mail(context: Context, user: str, folders: list[str], doubt: str) -> None:
    count = sum(count_sealed(folder) for folder in folders)
    if not count and not doubt:
        return
    sentence = f"all sealed mail of {user} is lost"
    what = f"{count} mails of {user} are sealed" if count else doubt
    if context.arguments.force != sentence:
        raise UsageError(
            f"{what}: without the keys nobody can ever read sealed mail again",
            hint=f'unseal it first, or say --force "{sentence}"',
        )


def _folders(context: Context, user: str) -> tuple[list[str], str]:
    """Where mail of the user may lie, and why that may be not all, if so."""
    from mailseal.delivery.dovecot import userdb

    folders = [os.path.abspath(path) for path in context.arguments.maildir]
    try:
        account = userdb.from_config(context.config).lookup(user)
    except MailsealError as exc:
        return folders, f"it is not known where the mail of {user} lies ({exc})"
    if account is None:
        return folders, "" if folders else f"the user database does not know {user}"
    if account.maildir is None:
        return folders, f"the mail of {user} does not lie in a Maildir"
    if not os.path.isdir(os.path.dirname(account.maildir)):
        return folders, f"{os.path.dirname(account.maildir)} is not there (not mounted?)"
    return [*folders, account.maildir], ""


def count_sealed(folder: str) -> int:
    """Sealed files anywhere below a folder.  A folder that is not there has none."""
    count = 0
    if not os.path.lexists(folder):
        return 0

    def failed(exc: OSError) -> None:
        raise durable.error_of(exc, f"cannot search {folder}")

    # Links are followed, as Dovecot does; each folder is searched once.
    seen: set[tuple[int, int]] = set()
    for where, inside, names in os.walk(folder, onerror=failed, followlinks=True):
        with durable.reporting(f"cannot search {where}"):
            found = os.stat(where)
        if (found.st_dev, found.st_ino) in seen:
            inside.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        for name in names:
            path = os.path.join(where, name)
            if not os.path.isfile(path):
                continue
            with durable.reporting(f"cannot read {path}"), open(path, "rb") as stream:
                count += dcrypt.is_sealed(stream.read(16))
    return count
