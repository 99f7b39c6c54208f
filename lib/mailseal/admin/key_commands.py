# SPDX-License-Identifier: MIT
"""mailseal passwd, lock, repair: password changes, sessions, public keys.

Passwords are read from the terminal.  With --stdin, or if standard input is not a
terminal, they are lines of standard input: `passwd` reads the old password and then
the new one.  docs/panels.md describes `passwd` for panels, with its exit statuses.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mailseal.admin import sessions, two_places
from mailseal.admin.pair_commands import report_rekey
from mailseal.admin.prompt import Passwords
from mailseal.errors import MailsealError, NotSettled, UsageError

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context


def register(commands: Commands) -> None:
    """Add this module's commands."""
    change = commands.add(
        "passwd",
        passwd,
        "change the password that opens a user's keyring",
        group="passwords and keys",
        example="mailseal passwd alice@example.com",
    )
    change.add_argument("user", metavar="USER")
    change.add_argument("--stdin", action="store_true", help="passwords from standard input")
    change.add_argument(
        "--null", action="store_true", help="passwords on standard input end with NUL, not with LF"
    )
    two_places.add_options(change)
    change.add_argument(
        "--compromised",
        action="store_true",
        help="use this if somebody else knows the old password: also make a new master key; this "
        "removes app passwords and recovery codes",
    )
    end = change.add_mutually_exclusive_group()
    end.add_argument("--commit", metavar="ID", help="complete the change ID: keep the new password")
    end.add_argument("--undo", metavar="ID", help="undo the change ID: keep the old password")
    lock_parser = commands.add(
        "lock",
        lock,
        "end the session of a user, or all sessions",
        group="users",
        example="mailseal lock alice@example.com",
    )
    who = lock_parser.add_mutually_exclusive_group(required=True)
    who.add_argument("user", metavar="USER", nargs="?")
    who.add_argument("--all", action="store_true", help="end all sessions")
    sessions.add_option(lock_parser)
    repair_parser = commands.add(
        "repair",
        repair,
        "publish the user's own public key again",
        group="operation",
        example="mailseal repair alice@example.com",
    )
    repair_parser.add_argument("user", metavar="USER")


def passwd(context: Context) -> int:
    """Change the login password; no mail is changed."""
    arguments = context.arguments
    user = os.fsencode(arguments.user)
    if arguments.commit is not None or arguments.undo is not None:
        return _settle(context, user)
    two_places.check_options(context)
    if arguments.compromised and arguments.keep_old:
        raise UsageError("--compromised and --keep-old cannot be used together")
    passwords = Passwords(from_stdin=arguments.stdin, null=arguments.null)
    old = passwords.ask(f"old password of {arguments.user}")
    new = passwords.ask(f"new password of {arguments.user}", new=True)
    if arguments.compromised:
        # Fails if the caller may not rekey: before the password is changed, not after.
        context.ask("rekey", check=b"1", user=user, password=old)
    if not two_places.change(context, "passwd", user, new, old=old):
        sys.stdout.write("password changed\n")
        two_places.note_one_place(context)
    if arguments.compromised:
        try:
            answer = context.ask("rekey", user=user, password=new)
        except MailsealError as exc:
            raise NotSettled(
                f"the password has changed, but the keyring still has the old master key: {exc}",
                hint=f"run `mailseal rekey {arguments.user}`",
            ) from None
        report_rekey(context, answer)
    return 0


def _settle(context: Context, user: bytes) -> int:
    arguments = context.arguments
    if arguments.then is not None or arguments.keep_old or arguments.compromised:
        raise UsageError("--commit and --undo cannot be used together with other options")
    verb, one = ("undo", "old") if arguments.commit is None else ("commit", "new")
    change = os.fsencode(arguments.undo if arguments.commit is None else arguments.commit)
    context.ask(verb, user=user, change=change)
    sys.stdout.write(f"only the {one} password opens the keyring now\n")
    return 0


def lock(context: Context) -> int:
    """End sessions: the next login opens the keyring with the password again.

    Connections whose index folder has been locked are ended: they could open no other mailbox.
    """
    user = context.arguments.user
    answer = context.ask("lock", **({"user": os.fsencode(user)} if user else {}))
    sys.stdout.write(f"{answer.text('ended')} sessions ended\n")
    for connected in answer.text("connected").splitlines():
        sessions.end(context, connected)
    return 0


def repair(context: Context) -> int:
    """Publish the public key of the keyring's newest key pair."""
    answer = context.ask("repair", user=os.fsencode(context.arguments.user))
    found = answer.text("found")
    sys.stdout.write(f"public key published again ({found})\n" if found else "nothing to repair\n")
    return 0
