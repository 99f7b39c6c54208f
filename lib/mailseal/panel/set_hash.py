# SPDX-License-Identifier: MIT
"""mailseal-set-hash: writes a user's new password hash to the site's user database.

SYNOPSIS
    mailseal-set-hash USER

DESCRIPTION
    Reads the new password as one line from standard input, hashes it with `doveadm pw`,
    and writes the hash to the database in /etc/mailseal/set-hash.yaml: a passwd-file,
    SQLite, PostgreSQL or MariaDB.  It takes exactly one argument and no options, and does
    not use the environment, so a sudo rule for it needs no wildcard.  Use it as the
    COMMAND of `mailseal passwd USER --stdin --then`.

    It changes exactly one existing row or line.

DIAGNOSTICS (exit status)
    0    the database has the new hash
    64   wrong arguments, or a password that is not allowed
    65   the database contains this user more than once, or has an unexpected content
    67   the database does not contain this user
    69   the database cannot be reached
    78   the configuration is wrong
    75   it is not known whether the database has the new hash; unexpected errors
    With each status but 0 and 75 it is certain that nothing has changed.

SECURITY
    Password and hash are never in arguments, the environment or messages.  The
    configuration, and a passwd-file and its folder, must belong to root or the current
    user, and nobody else may be able to write to them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import BinaryIO

from mailseal.errors import (
    EX_UNAVAILABLE,
    BadPassword,
    MailsealError,
    NoSuchUser,
    UsageError,
    print_error,
)
from mailseal.keys.password_slot import MAX_PASSWORD, check_password
from mailseal.panel import configuration, passwd_file, sql
from mailseal.panel.configuration import Database

CONFIG = "/etc/mailseal/set-hash.yaml"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class HashingFailed(MailsealError):
    """doveadm has returned no hash; nothing was written."""

    exit_status = EX_UNAVAILABLE


def main(argv: list[str], stdin: BinaryIO, *, config: str = CONFIG) -> int:
    """Run the program; returns the exit status."""
    os.umask(0o077)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise doveadm's exit status would be lost
    os.environ.clear()  # libpq and others read servers, users and files from it
    try:
        if len(argv) != 2 or argv[1].startswith("-") or not argv[1]:
            raise UsageError("usage: mailseal-set-hash USER, with the new password on stdin")
        set_hash(argv[1], _password(stdin), configuration.load(config))
    except MailsealError as exc:
        print_error("mailseal-set-hash", exc)
        return exc.exit_status
    return 0


def set_hash(user: str, password: bytes, database: Database) -> None:
    """Write the hash of a password to the database.  Errors: see DIAGNOSTICS."""
    if any(ord(letter) < 32 or letter == "\x7f" for letter in user):
        raise NoSuchUser("a user name must not contain control characters")
    hashed = hash_of(password, database.scheme)
    if database.kind == "passwd-file":
        passwd_file.write(database.path, user, hashed)
    else:
        sql.write(database, user, hashed)


def _password(stdin: BinaryIO) -> bytes:
    """The password: one line, without its LF."""
    line = stdin.readline(MAX_PASSWORD + 2)
    if not line.endswith(b"\n"):
        raise BadPassword("the new password must be one line on standard input")
    check_password(line[:-1])
    return line[:-1]


def hash_of(password: bytes, scheme: str) -> str:
    """`{SCHEME}hash` from doveadm-pw(1), which reads the password twice."""
    try:
        done = subprocess.run(
            ["doveadm", "pw", "-s", scheme],
            input=(password + b"\n") * 2,
            capture_output=True,
            timeout=60,
            env={"PATH": _PATH},
        )
    except (OSError, subprocess.SubprocessError):
        raise HashingFailed("cannot run doveadm pw") from None
    # A scheme such as PLAIN contains the password itself, which must not be changed.
    hashed = done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")
    controls = any(ord(letter) < 32 or letter == "\x7f" for letter in hashed)
    if done.returncode or not hashed.startswith("{") or controls:
        raise HashingFailed(
            f"doveadm pw made no {scheme} hash", hint="`doveadm pw -l` lists the schemes"
        )
    return hashed
