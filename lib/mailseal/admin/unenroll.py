# SPDX-License-Identifier: MIT
"""mailseal unenroll: permanently remove a user's keys, if no sealed mail needs them.

The command searches the user's Maildir, as the user database returns it, and every
--maildir.  If it finds sealed mail, or cannot determine this, it refuses and prints
the sentence that --force needs.  Delivery and logins are not affected by this search.

After that, it defers new mail and lets logins fail temporarily for a few seconds, ends the
user's open IMAP sessions, which would continue to seal with the old key, and
searches the folders again, because a delivery may have been in progress.  If it finds
mail now, it restores the previous state.  If the command is killed at that point, the
user's mail stays deferred: run it again, or run `mailseal repair USER`.

FAILURES
    UsageError: mail would be lost; TemporaryError: a folder cannot be read, or the
    sessions cannot be ended.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from mailseal.admin import sealed_mail, sessions
from mailseal.errors import NotEnrolled, UsageError
from mailseal.keys.names import normalise

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context


def register(commands: Commands) -> None:
    """Add this module's commands."""
    parser = commands.add(
        "unenroll",
        unenroll,
        "permanently remove a user's keys",
        group="users",
        example="mailseal unenroll alice@example.com",
    )
    parser.add_argument("user", metavar="USER")
    parser.add_argument(
        "--maildir", action="append", default=[], help="search this folder too (may be repeated)"
    )
    parser.add_argument(
        "--force",
        metavar="SENTENCE",
        help="remove the keys, and lose all mail that is still sealed",
    )
    sessions.add_option(parser)


def unenroll(context: Context) -> int:
    """See the module's docstring."""
    arguments = context.arguments
    user = normalise(os.fsencode(arguments.user))
    context.ask("unenroll", user=user.encode(), check=b"1")
    # Before logins are suspended: Dovecot's user database may be the keyrings themselves.
    folders, doubt = sealed_mail.folders(context, user)
    _require_no_sealed_mail(context, user, folders, doubt)
    suspended = True
    try:
        suspended = _suspend(context, user)  # fails if a host does not confirm it
        if suspended:
            sessions.end(context, user)
            time.sleep(sessions.UNDER_WAY)
        _require_no_sealed_mail(context, user, folders, doubt)
    except BaseException:
        if suspended:
            context.ask("repair", user=user.encode())
        raise
    # If somebody has run `mailseal repair` since, sealed mail may have arrived: then it fails.
    only_if = {"suspended": b"1"} if suspended else {}
    context.ask("unenroll", user=user.encode(), **only_if)
    sys.stdout.write(f"{user} is no longer enrolled; the keys were removed\n")
    return 0


def _suspend(context: Context, user: str) -> bool:
    """Whether mail is deferred now: not if there is no keyring (any more)."""
    try:
        context.ask("suspend", user=user.encode())
    except NotEnrolled:
        return False
    return True


def _require_no_sealed_mail(context: Context, user: str, folders: list[str], doubt: str) -> None:
    count = sealed_mail.count(folders).total()
    if not count and not doubt:
        return
    sentence = f"all sealed mail of {user} is lost"
    what = f"{count} mails of {user} are sealed" if count else doubt
    if context.arguments.force != sentence:
        raise UsageError(
            f"{what}: without the keys, sealed mail can never be read again",
            hint=(
                f"to store them in clear, run `mailseal unseal {user}`; "
                if count
                else "look for the reason with `mailseal check-config`; "
            )
            + "to remove the keys nevertheless, run "
            f'`mailseal unenroll {user} --force "{sentence}"`',
        )
