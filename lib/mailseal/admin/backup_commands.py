# SPDX-License-Identifier: MIT
"""mailseal backup, restore, escrow-open: backups of keyrings.

`restore --check` and `escrow-open` need no agent and work on any machine that has
the file, because a backup must be usable if the original machine is lost.

FAILURES
    Damaged, NewerFormat for files; WrongPassword if a keyring cannot be opened;
    otherwise the agent's errors.  `backup` and `restore` continue after an error with
    the next user, and fail at the end.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from mailseal import durable
from mailseal.admin.prompt import Passwords
from mailseal.errors import (
    AgentUnavailable,
    Damaged,
    MailsealError,
    NotEnrolled,
    NotPermitted,
    NotPublished,
    UsageError,
    WrongPassword,
)

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context
    from mailseal.crypto.eckeys import PrivateKey
    from mailseal.keys.keyring import Keyring, Opened


def register(commands: Commands) -> None:
    """Add this module's commands."""
    parser = commands.add(
        "backup",
        backup,
        "write keyrings to a file; they stay sealed",
        group="operation",
        example="mailseal backup /root/keyrings.json",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("users", metavar="USER", nargs="*", help="default: all users")
    parser = commands.add(
        "restore",
        restore,
        "restore keyrings from a backup, or check a backup",
        group="operation",
        example="mailseal restore --check /root/keyrings.json alice@example.com",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("users", metavar="USER", nargs="*", help="default: all users")
    parser.add_argument("--force", action="store_true", help="replace existing keyrings")
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; verify that the keyrings can be opened, with each USER's password or "
        "recovery code, or all of them with --escrow-key",
    )
    parser.add_argument("--escrow-key", metavar="PEM", help="file with the escrow private key")
    parser.add_argument("--stdin", action="store_true", help="secrets from standard input")
    parser = commands.add(
        "escrow-open",
        escrow_open,
        "open a backup with the organisation's private key",
        group="operation",
        example="mailseal escrow-open /root/keyrings.json alice@example.com --escrow-key key.pem",
    )
    parser.add_argument("file", metavar="FILE", help="a backup, or one keyring file")
    parser.add_argument("user", metavar="USER")
    parser.add_argument(
        "--escrow-key", metavar="PEM", required=True, help="file with the escrow private key"
    )
    parser.add_argument(
        "--format",
        choices=("pem", "dovecot"),
        default="pem",
        help="PEM (PKCS#8), or key strings in Dovecot's format, one in each line",
    )
    parser.add_argument(
        "--recovery-code",
        metavar="OUT",
        help="do not write the private keys; write a backup to OUT that can be opened with a new "
        "recovery code, for `restore --force` and `recover`",
    )
    parser.add_argument(
        "--stdin", action="store_true", help="password of the escrow key from standard input"
    )


def backup(context: Context) -> int:
    """Write one file with mode 0600.  If this fails, no file is written."""
    from mailseal.admin.status import all_status
    from mailseal.keys import backup as format_

    users = context.arguments.users or [entry["user"] for entry in all_status(context)["users"]]
    found: dict[str, bytes] = {}
    failed = []
    for user in users:
        try:
            found[user] = context.ask("backup", user=os.fsencode(user)).fields["keyring"]
        except (Damaged, NotEnrolled) as exc:
            failed.append(user)
            sys.stderr.write(f"mailseal: warning: not saved: {exc}\n")
    durable.replace(context.arguments.file, format_.encode(found, created=int(time.time())))
    sys.stdout.write(f"{len(found)} keyrings saved\n")
    if failed:
        raise Damaged(f"{len(failed)} keyrings could not be saved")
    return 0


def restore(context: Context) -> int:
    """Restore all users, or the given ones.  Identical keyrings are not written."""
    keyrings = _chosen(context)
    if context.arguments.check:
        return _check(context, keyrings)
    failed: list[MailsealError] = []
    for user, keyring in keyrings.items():
        force = {"force": b"1"} if context.arguments.force else {}
        try:
            answer = context.ask("restore", user=user.encode(), keyring=keyring.encode(), **force)
        except (AgentUnavailable, NotPermitted):
            raise
        except MailsealError as exc:
            failed.append(exc)
            how = "HALF RESTORED" if isinstance(exc, NotPublished) else "NOT RESTORED"
            sys.stdout.write(f"{user}: {how}: {exc}\n")
            if len(keyrings) > 1 and exc.hint and how.startswith("HALF"):
                sys.stderr.write(f"mailseal: hint: {exc.hint}\n")
            continue
        found = answer.text("found")
        done = (
            "no change needed" if found == "the same" else f"restored (previous keyring: {found})"
        )
        sys.stdout.write(f"{user}: {done}\n")
    if len(keyrings) == 1 and failed:
        raise failed[0]
    if failed:
        raise type(failed[0])(
            f"{len(failed)} of {len(keyrings)} keyrings were not restored", hint=failed[0].hint
        )
    return 0


def _chosen(context: Context) -> dict[str, Keyring]:
    from mailseal.keys import backup as format_
    from mailseal.keys.names import normalise

    path = context.arguments.file
    with durable.reporting(f"cannot read {path}"), open(path, "rb") as stream:
        keyrings = format_.parse(stream.read())
    wanted = [normalise(os.fsencode(user)) for user in context.arguments.users]
    for user in wanted:
        if user not in keyrings:
            raise NotEnrolled(f"the backup contains no keyring of {user}")
    return {user: keyrings[user] for user in wanted or keyrings}


def _check(context: Context, keyrings: dict[str, Keyring]) -> int:
    """Try to open the keyrings.  Fails if there is no password and no escrow key."""
    arguments = context.arguments
    escrow = _escrow_key(context) if arguments.escrow_key else None
    passwords = Passwords(from_stdin=arguments.stdin)
    failed = proven = 0
    for user, keyring in keyrings.items():
        try:
            if escrow is not None:
                opened = keyring.open_escrow(escrow)
            elif arguments.users or len(keyrings) == 1:
                opened = _open(keyring, passwords.ask(f"password or recovery code of {user}"))
            else:
                sys.stdout.write(f"{user}: intact, not tested with a password\n")
                continue
            proven += 1
            sys.stdout.write(f"{user}: can be opened, {len(opened.keys)} key pairs\n")
            opened.wipe()
        except MailsealError as exc:
            failed += 1
            sys.stdout.write(f"{user}: CANNOT BE OPENED: {exc}\n")
    if failed:
        raise WrongPassword(f"{failed} of {len(keyrings)} keyrings cannot be opened")
    if not proven:
        raise UsageError(
            f"{len(keyrings)} keyrings are intact, but none was opened",
            hint="add a USER and type the password, or use --escrow-key",
        )
    return 0


def _open(keyring: Keyring, secret: bytes) -> Opened:
    from mailseal.keys import codes

    if codes.read("recovery", secret) is None:
        return keyring.unlock(secret)
    return keyring.recover(secret)


def escrow_open(context: Context) -> int:
    """For the machine where the escrow key is kept; no agent is needed."""
    from mailseal.admin.slot_commands import write_keys
    from mailseal.crypto import kdf
    from mailseal.keys import backup as format_

    arguments = context.arguments
    arguments.users = [arguments.user]
    (keyring,) = _chosen(context).values()
    opened = keyring.open_escrow(_escrow_key(context))
    if arguments.recovery_code is None:
        write_keys([key.dovecot_string() for key in opened.keys[::-1]], arguments.format)
        return 0
    cost = kdf.PROFILES["standard"]
    _, code = opened.add_code("recovery", "", cost, now=int(time.time()))
    data = format_.encode({keyring.user: opened.keyring.encode()}, created=int(time.time()))
    durable.replace(arguments.recovery_code, data)
    sys.stdout.write(f"{code}\n")
    return 0


def _escrow_key(context: Context) -> PrivateKey:
    from mailseal.admin.key_sources import private_key

    arguments = context.arguments
    return private_key(arguments.escrow_key, "the escrow key", arguments.stdin)
