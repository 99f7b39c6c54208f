# SPDX-License-Identifier: MIT
"""mailseal rewrap, recover, recovery-code, app-password, revoke, export-key.

Secrets come from the terminal, or as lines of standard input in the order in
which the terminal would ask.  New codes are written to standard output, once: mailseal
does not keep them.
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
            "set the login password after it was changed elsewhere, with the previous password "
            "or a recovery code",
        )
    )
    two_places.add_options(
        _secret(commands.add("recover", recover, "set a new login password with a recovery code"))
    )
    _secret(
        commands.add(
            "recovery-code", recovery_code, "make a recovery code; it replaces an older one"
        )
    )
    app = _secret(commands.add("app-password", app_password, "make a password for one program"))
    app.add_argument("label", metavar="LABEL", help="what it is for: phone, laptop")
    revoke_parser = commands.add("revoke", revoke, "take an app password or other slot away")
    revoke_parser.add_argument("user", metavar="USER")
    revoke_parser.add_argument(
        "--stdin",
        action="store_true",
        help="login password from standard input: agent.panel_users must give it",
    )
    revoke_parser.add_argument("slot", metavar="SLOT", help="its id, as `mailseal status` shows it")
    revoke_parser.add_argument(
        "--rekey",
        action="store_true",
        help="with the login password, also make what the slot opened worthless for later keys; "
        "all other app passwords and recovery codes go too",
    )
    export = _secret(
        commands.add(
            "export-key",
            export_key,
            "write the private keys IN CLEAR to standard output, newest first",
        )
    )
    export.add_argument(
        "--format",
        choices=("pem", "dovecot"),
        default="pem",
        help="PEM (PKCS#8) or Dovecot's own strings, one a line",
    )


def _secret(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("user", metavar="USER")
    parser.add_argument("--stdin", action="store_true", help="secrets from standard input")
    return parser


def rewrap(context: Context) -> int:
    """The other passdb has a new password: teach it to the keyring."""
    passwords, user = _start(context)
    secret = passwords.ask("previous password or recovery code")
    new = passwords.ask(f"present password of {context.arguments.user}", new=True)
    context.ask("rewrap", user=user, secret=secret, new=new)
    sys.stdout.write("the keyring opens with the present password\n")
    return 0


def recover(context: Context) -> int:
    """The password is forgotten: the recovery code sets a new one."""
    two_places.check_options(context)
    passwords, user = _start(context)
    code = passwords.ask("recovery code")
    new = passwords.ask(f"new password of {context.arguments.user}", new=True)
    if not two_places.change(context, "recover", user, new, code=code):
        sys.stdout.write("the keyring opens with the new password; the recovery code stays valid\n")
        two_places.note_one_place(context)
    return 0


def recovery_code(context: Context) -> int:
    """Make a code, show it once."""
    passwords, user = _start(context)
    password = passwords.ask(f"password of {context.arguments.user}")
    reply = context.ask("recovery", user=user, password=password)
    sys.stdout.write(f"{reply.text('code')}\n")
    sys.stderr.write(
        "mailseal: write this recovery code down and keep it apart from the machine;\n"
        "mailseal: it is not shown again, and an older one no longer works\n"
    )
    return 0


def app_password(context: Context) -> int:
    """Make an app password, show it once."""
    passwords, user = _start(context)
    password = passwords.ask(f"password of {context.arguments.user}")
    label = os.fsencode(context.arguments.label)
    reply = context.ask("app", user=user, password=password, label=label)
    sys.stdout.write(f"{reply.text('code')}\n")
    sys.stderr.write(
        f"mailseal: slot {reply.text('slot')}; not shown again; "
        f"end it with `mailseal revoke {context.arguments.user} {reply.text('slot')}`\n"
    )
    return 0


def revoke(context: Context) -> int:
    """Needs no password of an administrator: whoever lost a phone may have lost that too."""
    arguments = context.arguments
    fields = {"user": os.fsencode(arguments.user), "slot": os.fsencode(arguments.slot)}
    if arguments.stdin or arguments.rekey:
        passwords, _ = _start(context)
        fields["password"] = passwords.ask(f"password of {arguments.user}")
    if arguments.rekey:
        fields["rekey"] = b"1"
    reply = context.ask("revoke", **fields)
    label = reply.text("label")
    sys.stdout.write(f"{reply.text('kind')} slot revoked{f' ({label})' if label else ''}\n")
    if arguments.rekey:
        report_rekey(context, reply)
    else:
        sys.stderr.write(
            "mailseal: note: an older copy of the keyring, such as a backup, still opens with what "
            f"the slot took; `mailseal rekey {arguments.user}` keeps later mail from it\n"
        )
    return 0


def export_key(context: Context) -> int:
    """For leaving mailseal, or for reading elsewhere."""
    passwords, user = _start(context)
    secret = passwords.ask("password or recovery code")
    reply = context.ask("export", user=user, secret=secret)
    write_keys(reply.text("keys").split("\n"), context.arguments.format)
    return 0


def write_keys(strings: list[str], form: str) -> None:
    """Private keys, given as Dovecot's clear strings, to standard output."""
    from cryptography.hazmat.primitives import serialization

    from mailseal.crypto.eckeys import PrivateKey

    sys.stderr.write("mailseal: warning: whoever has these lines can read all the user's mail\n")
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
