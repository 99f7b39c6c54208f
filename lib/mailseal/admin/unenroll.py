# SPDX-License-Identifier: MIT
"""mailseal unenroll: forget a user's keys for ever, if no sealed mail needs them.

The user's Maildir, as the user database names it, and every --maildir is searched.
While one sealed mail is there, or while it cannot be told, the command refuses and
says the sentence that --force takes; mail and logins notice nothing of that.

Only then is new mail deferred and are logins kept out, for a few seconds, and the
folders are searched once more: a mail may have been under way.  If it was, all is
as before.  Killed at that point the command leaves the user's mail deferred: run it
again, or `mailseal repair USER`.
An IMAP session that is open goes on sealing with the old key: `doveadm kick USER`.

FAILURES
    UsageError with what would be lost; TemporaryError if a folder cannot be read.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from mailseal.admin import sealed_mail
from mailseal.admin.pair_commands import UNDER_WAY
from mailseal.errors import NotEnrolled, UsageError
from mailseal.keys.names import normalise

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context


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
    folders, doubt = sealed_mail.folders(context, user)
    _require_no_sealed_mail(context, user, folders, doubt)
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
    time.sleep(UNDER_WAY)
    return True


def _require_no_sealed_mail(context: Context, user: str, folders: list[str], doubt: str) -> None:
    count = sealed_mail.count(folders).total()
    if not count and not doubt:
        return
    sentence = f"all sealed mail of {user} is lost"
    what = f"{count} mails of {user} are sealed" if count else doubt
    if context.arguments.force != sentence:
        raise UsageError(
            f"{what}: without the keys nobody can ever read sealed mail again",
            hint=f'if all of it may be lost, run `mailseal unenroll {user} --force "{sentence}"`',
        )
