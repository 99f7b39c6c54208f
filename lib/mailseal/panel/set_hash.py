# SPDX-License-Identifier: MIT
"""mailseal-set-hash: give one user a new password hash in the site's user database.

SYNOPSIS
    mailseal-set-hash USER

DESCRIPTION
    Reads the new password as one line from standard input, has `doveadm pw` hash it,
    and writes the hash to the database that /etc/mailseal/set-hash.yaml names: a
    passwd-file, SQLite, PostgreSQL or MariaDB.  It takes exactly one argument and no
    option, and no variable of the environment changes what it does: so it can be named in
    sudoers as it is.  Made to be run by `mailseal passwd USER --stdin --then`.

    Only a user who is in the database already is changed, and no other row or line.

DIAGNOSTICS (exit status)
    0    the database has the new hash
    64   wrong arguments, or a password that cannot be one
    65   the database holds this user more than once, or is not what was expected
    67   the database does not hold this user
    69   the database cannot be reached
    78   the configuration is wrong
    75   it is not known whether the database has the new hash; anything unforeseen
    With every status but 0 and 75 it is certain that nothing has changed.

SECURITY
    Neither password nor hash is ever an argument, in the environment or in a message.  The
    configuration, and a passwd-file and its folder, must belong to root or to the
    user this runs as, and be writable by nobody else.
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
    """doveadm gave no hash; nothing was written."""

    exit_status = EX_UNAVAILABLE


def main(argv: list[str], stdin: BinaryIO, *, config: str = CONFIG) -> int:
    """Do it; returns the exit status."""
    os.umask(0o077)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else doveadm's exit status would be lost
    os.environ.clear()  # libpq and others take servers, users and files from it
    try:
        if len(argv) != 2 or argv[1].startswith("-") or not argv[1]:
            raise UsageError("usage: mailseal-set-hash USER, with the new password on stdin")
        set_hash(argv[1], _password(stdin), configuration.load(config))
    except MailsealError as exc:
        print_error("mailseal-set-hash", exc)
        return exc.exit_status
    return 0


def set_hash(user: str, password: bytes, database: Database) -> None:
    """Write the hash of a password to the database.  Raises what DIAGNOSTICS lists."""
    if any(ord(letter) < 32 or letter == "\x7f" for letter in user):
        raise NoSuchUser("a user name must not contain control characters")
    hashed = hash_of(password, database.scheme)
    if database.kind == "passwd-file":
        passwd_file.write(database.path, user, hashed)
    else:
        sql.write(database, user, hashed)


def _password(stdin: BinaryIO) -> bytes:
    """One line, without its LF."""
    line = stdin.readline(MAX_PASSWORD + 2)
    if not line.endswith(b"\n"):
        raise BadPassword("the new password must be one line on standard input")
    check_password(line[:-1])
    return line[:-1]


def hash_of(password: bytes, scheme: str) -> str:
    """`{SCHEME}hash`, made by doveadm-pw(1), which asks for the password twice."""
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
