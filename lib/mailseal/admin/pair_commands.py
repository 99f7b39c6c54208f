# SPDX-License-Identifier: MIT
"""mailseal rotate, rekey, drop-key: a user's key pairs and master key.

drop-key permanently removes an old key pair if no mail needs it.  It searches the mail twice:
first without any change; then again while mail for the user is deferred and logins fail
temporarily, after `doveadm kick USER`, because an IMAP session from before the last rotation
continues to seal with an older key pair.  If the command is killed at that point, mail stays
deferred: run it again, or run `mailseal repair USER`.

FAILURES
    UsageError if mail is sealed with the key pair, or if this cannot be determined.
    TemporaryError if the user database returns so many fields that the keys may not fit.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from mailseal.admin import sealed_mail, sessions
from mailseal.admin.prompt import Passwords
from mailseal.errors import TemporaryError, UsageError
from mailseal.keys.names import normalise

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from mailseal.admin.command import Commands, Context
    from mailseal.login.client import Answer


def register(commands: Commands) -> None:
    """Add this module's commands."""
    _secret(
        commands.add(
            "rotate",
            rotate,
            "make a new key pair for new mail",
            group="passwords and keys",
            example="mailseal rotate alice@example.com",
        )
    )
    _secret(
        commands.add(
            "rekey",
            rekey,
            "make a new master key and a new key pair, so that later mail cannot be opened with "
            "an old copy of the keyring and an old password",
            group="passwords and keys",
            example="mailseal rekey alice@example.com",
        )
    )
    drop = _secret(
        commands.add(
            "drop-key",
            drop_key,
            "remove an old key pair that no mail is sealed to",
            group="passwords and keys",
            example="mailseal drop-key alice@example.com 9b01d7e2c45f8a63",
        )
    )
    drop.add_argument("key", metavar="KEYID", help="the key id that `mailseal status` shows")
    drop.add_argument(
        "--maildir", action="append", default=[], help="search this folder too (may be repeated)"
    )
    sessions.add_option(drop)


def _secret(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("user", metavar="USER")
    parser.add_argument("--stdin", action="store_true", help="password from standard input")
    return parser


def _password(context: Context) -> bytes:
    arguments = context.arguments
    return Passwords(from_stdin=arguments.stdin).ask(f"password of {arguments.user}")


def _require_room(context: Context, user: bytes) -> None:
    from mailseal.admin import userdb_size_check

    userdb_size_check.require(context.config, normalise(user))


def rotate(context: Context) -> int:
    """Make a key pair for new mail; the older ones stay for reading."""
    user = os.fsencode(context.arguments.user)
    _require_room(context, user)
    answer = context.ask("rotate", user=user, password=_password(context))
    sys.stdout.write(f"new mail is sealed with key {answer.text('key_id')[:16]}\n")
    _warn(answer)
    return 0


def rekey(context: Context) -> int:
    """Make a new master key, and seal the keyring with it."""
    user = os.fsencode(context.arguments.user)
    _require_room(context, user)
    report_rekey(context, context.ask("rekey", user=user, password=_password(context)))
    return 0


def report_rekey(context: Context, answer: Answer) -> None:
    """Print the result of a rekey, and what must be made again."""
    user = context.arguments.user
    if key_id := answer.text("key_id"):
        sys.stdout.write(f"new master key; new mail is sealed with key {key_id[:16]}\n")
    else:
        sys.stdout.write("new master key; NO NEW KEY PAIR: no more key pairs fit into a login\n")
        sys.stderr.write(
            f"mailseal: hint: run `mailseal drop-key {user} KEYID`, then `mailseal rotate {user}`\n"
        )
    _warn(answer)
    for line in answer.text("gone").splitlines():
        kind, _, label = line.partition(" ")
        sys.stdout.write(f"removed: {kind} slot{f' ({label})' if label else ''}\n")
        if kind == "recovery":
            sys.stderr.write(f"mailseal: hint: run `mailseal recovery-code {user}` now\n")
        elif kind == "app":
            sys.stderr.write(f"mailseal: hint: run `mailseal app-password {user} LABEL`\n")


def _warn(answer: Answer) -> None:
    """Other hosts that still seal with an older key pair."""
    if warning := answer.text("warning"):
        sys.stderr.write(f"mailseal: warning: {warning}\n")


def drop_key(context: Context) -> int:
    """See the module's docstring."""
    arguments = context.arguments
    user = normalise(os.fsencode(arguments.user))
    key_id = _full_id(context, user)
    password = _password(context)
    asked = {"user": user.encode(), "password": password, "key_id": key_id}
    context.ask("drop_key", check=b"1", **asked)
    folders, doubt = sealed_mail.folders(context, user)
    if doubt:
        raise UsageError(f"{doubt}: cannot determine whether mail needs this key pair; it was kept")
    _require_unused(user, folders, key_id)
    try:
        context.ask("suspend", user=user.encode())  # fails if a host does not confirm it
        sessions.end(context, user)
        time.sleep(sessions.UNDER_WAY)
        _require_unused(user, folders, key_id)
        context.ask("drop_key", **asked)
    finally:
        context.ask("repair", user=user.encode())
    sys.stdout.write(f"key pair {key_id.hex()[:16]} removed\n")
    return 0


def _full_id(context: Context, user: str) -> bytes:
    """The complete key id that begins as the argument does."""
    from mailseal.admin.status import all_status

    wanted = context.arguments.key.lower()
    (entry,) = all_status(context, user)["users"]
    if "problem" in entry:
        raise TemporaryError(entry["problem"])
    found = [key["id"] for key in entry["keys"] if key["id"].startswith(wanted)]
    if len(found) != 1 or len(wanted) < 8:
        raise UsageError(f"{user} has no key pair {wanted}", hint=f"see `mailseal status {user}`")
    return bytes.fromhex(found[0])


def _require_unused(user: str, folders: list[str], key_id: bytes) -> None:
    found = sealed_mail.count(folders)
    if found[key_id]:
        raise UsageError(
            f"{found[key_id]} mails are sealed with this key pair and cannot be read without it",
            hint="the key pair was kept; to seal these mails with the current one, run "
            f"`mailseal reseal {user}`",
        )
    if found[sealed_mail.UNREADABLE]:
        raise UsageError(
            f"{found[sealed_mail.UNREADABLE]} sealed mails have a damaged header: cannot "
            "determine whether they need this key pair; it was kept"
        )
