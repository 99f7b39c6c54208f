# SPDX-License-Identifier: MIT
"""mailseal passwd, lock, repair: the everyday life of keys.

Passwords come from the terminal, or as lines of standard input with --stdin or
when standard input is no terminal: `passwd` reads two, the old password and the
new one.  What a panel needs of `passwd`, with its exit
statuses, stands in docs/panels.md.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mailseal.admin import two_places
from mailseal.admin.pair_commands import report_rekey
from mailseal.admin.prompt import Passwords
from mailseal.errors import MailsealError, NotSettled, UsageError

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context


def register(commands: Commands) -> None:
    """Add this module's commands."""
    change = commands.add("passwd", passwd, "change the password that opens a user's keyring")
    change.add_argument("user", metavar="USER")
    change.add_argument("--stdin", action="store_true", help="passwords from standard input")
    change.add_argument(
        "--null", action="store_true", help="passwords on standard input end with NUL, not LF"
    )
    two_places.add_options(change)
    change.add_argument(
        "--compromised",
        action="store_true",
        help="somebody knows the old password: rekey too; app passwords and recovery codes go",
    )
    end = change.add_mutually_exclusive_group()
    end.add_argument("--commit", metavar="ID", help="end the change ID with the new password")
    end.add_argument("--undo", metavar="ID", help="end the change ID with the old password")
    lock_parser = commands.add("lock", lock, "end a user's session, or all of them")
    who = lock_parser.add_mutually_exclusive_group(required=True)
    who.add_argument("user", metavar="USER", nargs="?")
    who.add_argument("--all", action="store_true")
    repair_parser = commands.add("repair", repair, "publish a user's own public key again")
    repair_parser.add_argument("user", metavar="USER")


def passwd(context: Context) -> int:
    """Change the login password; the mail stays as it is."""
    arguments = context.arguments
    user = os.fsencode(arguments.user)
    if arguments.commit is not None or arguments.undo is not None:
        return _settle(context, user)
    two_places.check_options(context)
    if arguments.compromised and arguments.keep_old:
        raise UsageError("--compromised ends the old password: it does not go with --keep-old")
    passwords = Passwords(from_stdin=arguments.stdin, null=arguments.null)
    old = passwords.ask(f"old password of {arguments.user}")
    new = passwords.ask(f"new password of {arguments.user}", new=True)
    if arguments.compromised:
        # May it be done?  Else the password would have changed, and the answer would be "no".
        context.ask("rekey", check=b"1", user=user, password=old)
    if not two_places.change(context, "passwd", user, new, old=old):
        sys.stdout.write("password changed\n")
        two_places.note_one_place(context)
    if arguments.compromised:
        try:
            reply = context.ask("rekey", user=user, password=new)
        except MailsealError as exc:
            raise NotSettled(
                f"the password has changed, but the keyring still has the old master key: {exc}",
                hint=f"run `mailseal rekey {arguments.user}`",
            ) from None
        report_rekey(context, reply)
    return 0


def _settle(context: Context, user: bytes) -> int:
    arguments = context.arguments
    if arguments.then is not None or arguments.keep_old or arguments.compromised:
        raise UsageError("--commit and --undo end a change: nothing else goes with them")
    verb, one = ("undo", "old") if arguments.commit is None else ("commit", "new")
    change = os.fsencode(arguments.undo if arguments.commit is None else arguments.commit)
    context.ask(verb, user=user, change=change)
    sys.stdout.write(f"only the {one} password opens\n")
    return 0


def lock(context: Context) -> int:
    """Forget opened keyrings: the next login needs the password and Argon2id again."""
    user = context.arguments.user
    reply = context.ask("lock", **({"user": os.fsencode(user)} if user else {}))
    sys.stdout.write(f"{reply.text('ended')} sessions ended\n")
    return 0


def repair(context: Context) -> int:
    """Publish the key that the keyring holds as current."""
    reply = context.ask("repair", user=os.fsencode(context.arguments.user))
    found = reply.text("found")
    sys.stdout.write(f"published again ({found})\n" if found else "nothing to repair\n")
    return 0
