# SPDX-License-Identifier: MIT
"""mailseal rewrap, recover, recovery-code, app-password, revoke, export-key.

Secrets are read from the terminal, or as lines of standard input in the same order.
New codes are written to standard output once; mailseal does not store them.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mailseal.admin import two_places
from mailseal.admin.pair_commands import report_rekey
from mailseal.admin.prompt import Passwords

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from mailseal.admin.command import Commands, Context


def register(commands: Commands) -> None:
    """Add this module's commands."""
    _secret(
        commands.add(
            "rewrap",
            rewrap,
            "update the keyring after the login password was changed without mailseal, with the "
            "previous password or a recovery code",
            group="passwords and keys",
            example="mailseal rewrap alice@example.com",
        )
    )
    two_places.add_options(
        _secret(
            commands.add(
                "recover",
                recover,
                "set a new login password with a recovery code",
                group="passwords and keys",
                example="mailseal recover alice@example.com",
            )
        )
    )
    _secret(
        commands.add(
            "recovery-code",
            recovery_code,
            "make a recovery code; it replaces the older one",
            group="passwords and keys",
            example="mailseal recovery-code alice@example.com",
        )
    )
    app = _secret(
        commands.add(
            "app-password",
            app_password,
            "make a password for one program",
            group="passwords and keys",
            example="mailseal app-password alice@example.com phone",
        )
    )
    app.add_argument("label", metavar="LABEL", help="where it is used, for example phone or laptop")
    revoke_parser = commands.add(
        "revoke",
        revoke,
        "remove an app password or another slot",
        group="passwords and keys",
        example="mailseal revoke alice@example.com 3f2a91c0",
    )
    revoke_parser.add_argument("user", metavar="USER")
    revoke_parser.add_argument(
        "--stdin",
        action="store_true",
        help="login password from standard input; required for users in agent.panel_users",
    )
    revoke_parser.add_argument(
        "slot", metavar="SLOT", help="the slot id that `mailseal status` shows"
    )
    revoke_parser.add_argument(
        "--rekey",
        action="store_true",
        help="also make a new master key and a new key pair, so that later mail cannot be opened "
        "with the removed slot and an old copy of the keyring; needs the login password, and "
        "removes all app passwords and recovery codes",
    )
    export = _secret(
        commands.add(
            "export-key",
            export_key,
            "write the private keys IN CLEAR to standard output, newest first",
            group="passwords and keys",
            example="mailseal export-key alice@example.com --format dovecot",
        )
    )
    export.add_argument(
        "--format",
        choices=("pem", "dovecot"),
        default="pem",
        help="PEM (PKCS#8), or key strings in Dovecot's format, one in each line",
    )


def _secret(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("user", metavar="USER")
    parser.add_argument("--stdin", action="store_true", help="secrets from standard input")
    return parser


def rewrap(context: Context) -> int:
    """Set the password in the keyring that the user database already has."""
    passwords, user = _start(context)
    secret = passwords.ask("previous password or recovery code")
    new = passwords.ask(f"current password of {context.arguments.user}", new=True)
    context.ask("rewrap", user=user, secret=secret, new=new)
    sys.stdout.write("the keyring opens with the current password\n")
    return 0


def recover(context: Context) -> int:
    """Set a new login password with a recovery code."""
    two_places.check_options(context)
    passwords, user = _start(context)
    code = passwords.ask("recovery code")
    new = passwords.ask(f"new password of {context.arguments.user}", new=True)
    if not two_places.change(context, "recover", user, new, code=code):
        sys.stdout.write("the keyring opens with the new password; the recovery code stays valid\n")
        two_places.note_one_place(context)
    return 0


def recovery_code(context: Context) -> int:
    """Make a recovery code and print it once."""
    passwords, user = _start(context)
    password = passwords.ask(f"password of {context.arguments.user}")
    answer = context.ask("recovery", user=user, password=password)
    sys.stdout.write(f"{answer.text('code')}\n")
    sys.stderr.write(
        "mailseal: write down this recovery code, and do not keep it on this machine;\n"
        "mailseal: it is not shown again, and an older recovery code no longer works\n"
    )
    return 0


def app_password(context: Context) -> int:
    """Make an app password and print it once."""
    passwords, user = _start(context)
    password = passwords.ask(f"password of {context.arguments.user}")
    label = os.fsencode(context.arguments.label)
    answer = context.ask("app", user=user, password=password, label=label)
    sys.stdout.write(f"{answer.text('code')}\n")
    sys.stderr.write(
        f"mailseal: slot {answer.text('slot')}; the password is not shown again; "
        f"to remove it, run `mailseal revoke {context.arguments.user} {answer.text('slot')}`\n"
    )
    return 0


def revoke(context: Context) -> int:
    """Administrators need no password: the user may have lost it together with a phone."""
    arguments = context.arguments
    fields = {"user": os.fsencode(arguments.user), "slot": os.fsencode(arguments.slot)}
    if arguments.stdin or arguments.rekey:
        passwords, _ = _start(context)
        fields["password"] = passwords.ask(f"password of {arguments.user}")
    if arguments.rekey:
        fields["rekey"] = b"1"
    answer = context.ask("revoke", **fields)
    label = answer.text("label")
    sys.stdout.write(f"{answer.text('kind')} slot revoked{f' ({label})' if label else ''}\n")
    if arguments.rekey:
        report_rekey(context, answer)
    else:
        sys.stderr.write(
            "mailseal: note: the removed slot still opens older copies of the keyring, for example "
            f"in backups; `mailseal rekey {arguments.user}` protects later mail (and removes "
            "all app passwords and recovery codes)\n"
        )
    return 0


def export_key(context: Context) -> int:
    """Write the private keys, for reading mail without mailseal."""
    passwords, user = _start(context)
    secret = passwords.ask("password or recovery code")
    answer = context.ask("export", user=user, secret=secret)
    write_keys(answer.text("keys").split("\n"), context.arguments.format)
    return 0


def write_keys(strings: list[str], form: str) -> None:
    """Write private keys, given as Dovecot's key strings, to standard output."""
    from cryptography.hazmat.primitives import serialization

    from mailseal.crypto.eckeys import PrivateKey

    sys.stderr.write("mailseal: warning: anybody with these lines can read all the user's mail\n")
    for text in strings:
        if form == "pem":
            text = (
                PrivateKey.parse(text)
                .key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                .decode()
                .strip()
            )
        sys.stdout.write(f"{text}\n")


def _start(context: Context) -> tuple[Passwords, bytes]:
    return Passwords(from_stdin=context.arguments.stdin), os.fsencode(context.arguments.user)
