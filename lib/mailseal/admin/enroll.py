# SPDX-License-Identifier: MIT
"""mailseal enroll: make key pairs, for one user or for many.

If another passdb checks passwords, the command first asks Dovecot whether the user exists
and the password is right: if the keyring opened with another password than the login
password, the user could not read mail.  If the keyring is the only password check, Dovecot
is not asked.  Nobody is enrolled whose mail Dovecot keeps in a format that mail_crypt cannot seal,
or while users may save mail in the folders of others.

A LIST (--stdin-list)
    Standard input has lines `USER TAB PASSWORD`.  For each of them, one line is written to
    standard output at once:
        USER TAB enrolled TAB KEYID
        USER TAB already enrolled
        USER TAB failed TAB STATUS TAB MESSAGE     (STATUS: exit status for this user)
    After a failure the command continues.  Exit status: 0 if all users are enrolled; 75 if
    there was a temporary failure, so that the same list can be tried again; otherwise 65.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mailseal.admin.prompt import Passwords
from mailseal.errors import (
    EX_DATAERR,
    EX_TEMPFAIL,
    AlreadyEnrolled,
    ConfigError,
    MailsealError,
    NotEnrolled,
    NotPermitted,
    UsageError,
)

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context

NO_SECOND_WAY = "no recovery method: a forgotten password means LOST MAIL"


def register(commands: Commands) -> None:
    """Add this module's command."""
    parser = commands.add(
        "enroll",
        enroll,
        "make the keys of one user or of many users",
        group="users",
        example="mailseal enroll alice@example.com",
    )
    parser.add_argument("user", metavar="USER", nargs="?")
    parser.add_argument("--stdin", action="store_true", help="password from standard input")
    parser.add_argument(
        "--stdin-list",
        action="store_true",
        help="enroll many users: read lines with a user, a TAB and a password from standard input",
    )
    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="do not ask Dovecot whether the user exists, whether the password is right, whether "
        "the mail format can be sealed, and whether others can save mail in the user's folders",
    )


def enroll(context: Context) -> int:
    """Make a keyring.  The password is the user's login password."""
    arguments = context.arguments
    if arguments.stdin_list:
        if arguments.user is not None:
            raise UsageError(
                "--stdin-list reads the users from standard input: USER is not allowed"
            )
        return _enroll_list(context)
    if arguments.user is None:
        raise UsageError("USER is missing; for many users, use --stdin-list")
    password = Passwords(from_stdin=arguments.stdin).ask(f"password of {arguments.user}", new=True)
    user, key_id, second_way = _enroll_one(context, os.fsencode(arguments.user), password)
    sys.stdout.write(f"{user} is enrolled, key {key_id[:16]}\n")
    sys.stderr.write(
        "mailseal: hint: IMAP sessions that are open now still save mail in clear; end them with "
        f"`doveadm kick {user}`\n"
    )
    if not second_way:
        sys.stderr.write(
            f"mailseal: warning: {user} has {NO_SECOND_WAY}\n"
            f"mailseal: hint: run `mailseal recovery-code {user}`\n"
        )
    return 0


def _enroll_one(context: Context, user: bytes, password: bytes) -> tuple[str, str, bool]:
    """User, key id, and whether there is a recovery method."""
    from mailseal.admin import dovecot_folders_check, dovecot_format_check, userdb_size_check
    from mailseal.keys.names import normalise
    from mailseal.keys.password_slot import check_password

    name = normalise(user)
    check_password(password)
    asked = False
    if not context.arguments.unchecked:
        dovecot_format_check.require(context.config, name)
        dovecot_folders_check.require(context.config)
        userdb_size_check.require(context.config, name)
        if context.config.login.password_check == "passdb":  # noqa: S105 - no password
            asked = _ask_dovecot(context, name, password)
    try:
        answer = context.ask("enroll", user=user, password=password)
    except AlreadyEnrolled:
        # With `login.enroll: at-login` the login that Dovecot tried has enrolled the user.
        if not asked or context.config.login.enroll != "at-login":
            raise
        return _as_status_says(context, user)
    return answer.text("user"), answer.text("key_id"), "second_way" in answer.fields


def _ask_dovecot(context: Context, name: str, password: bytes) -> bool:
    """Whether Dovecot was asked.  An interrupted enrollment needs no second check."""
    from mailseal.admin import dovecot_login

    try:
        context.ask("status", user=name.encode())
    except NotEnrolled:
        dovecot_login.check(context.config, name, password)
        return True
    return False


def _as_status_says(context: Context, user: bytes) -> tuple[str, str, bool]:
    from mailseal.keys import record

    (entry,) = record.parse(context.ask("status", user=user).fields["users"])
    return entry["user"], entry["keys"][-1]["id"], entry["second_way"]


def _enroll_list(context: Context) -> int:
    status = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        user, tab, password = line.removesuffix(b"\n").removesuffix(b"\r").partition(b"\t")
        name = _shown(user)
        try:
            if not tab:
                raise UsageError(f"line {number} has no TAB between user and password")
            _, key_id, _ = _enroll_one(context, user, password)
            result = f"enrolled\t{key_id}"
        except AlreadyEnrolled:
            result = "already enrolled"
        except (ConfigError, NotPermitted):
            raise  # it would fail for all users
        except MailsealError as exc:
            result = f"failed\t{exc.exit_status}\t{exc}"
            passes = EX_TEMPFAIL in (exc.exit_status, status)
            status = EX_TEMPFAIL if passes else EX_DATAERR
        sys.stdout.write(f"{name}\t{result}\n")
        sys.stdout.flush()
    return status


def _shown(user: bytes) -> str:
    text = user.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)
