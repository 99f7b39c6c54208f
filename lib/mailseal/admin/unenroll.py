# SPDX-License-Identifier: MIT
"""mailseal unenroll: forget a user's keys for ever, if no sealed mail needs them.

The user's Maildir, as the user database names it, and every --maildir is
searched.  While one sealed mail is there, or while it cannot be told, the
command refuses, and says the sentence that --force takes.

FAILURES
    UsageError with what would be lost; TemporaryError if a folder cannot be read.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mailseal import durable
from mailseal.crypto import dcrypt
from mailseal.errors import MailsealError, UsageError
from mailseal.keys.names import normalise

if TYPE_CHECKING:
    from mailseal.admin.cli import Commands, Context


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
    folders, doubt = _folders(context, user)
    count = sum(count_sealed(folder) for folder in folders)
    if count or doubt:
        sentence = f"all sealed mail of {user} is lost"
        what = f"{count} mails of {user} are sealed" if count else doubt
        if arguments.force != sentence:
            raise UsageError(
                f"{what}: without the keys nobody can ever read sealed mail again",
                hint=f'unseal it first, or say --force "{sentence}"',
            )
    context.ask("unenroll", user=user.encode())
    sys.stdout.write(f"{user} is not enrolled any more, the keys are gone\n")
    return 0


def _folders(context: Context, user: str) -> tuple[list[str], str]:
    """Where mail of the user may lie, and why that may be not all, if so."""
    from mailseal.delivery import userdb

    folders = [os.path.abspath(path) for path in context.arguments.maildir]
    try:
        account = userdb.from_config(context.config).lookup(user)
    except MailsealError as exc:
        return folders, f"it is not known where the mail of {user} lies ({exc})"
    if account is None:
        return folders, "" if folders else f"the user database does not know {user}"
    if account.maildir is None:
        return folders, f"the mail of {user} does not lie in a Maildir"
    return [*folders, account.maildir], ""


def count_sealed(folder: str) -> int:
    """Sealed files anywhere below a folder.  A folder that is not there has none."""
    count = 0
    if not os.path.lexists(folder):
        return 0

    def failed(exc: OSError) -> None:
        raise durable.error_of(exc, f"cannot search {folder}")

    for where, _, names in os.walk(folder, onerror=failed):
        for name in names:
            path = os.path.join(where, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            with durable.reporting(f"cannot read {path}"), open(path, "rb") as stream:
                count += dcrypt.is_sealed(stream.read(16))
    return count
