# SPDX-License-Identifier: MIT
"""Changes the login password in two places: the keyring, and the user database.

    begin     both passwords open the keyring; the change has an id
    COMMAND   sets the password in the user database
    end       commit or undo, with that id

If this is interrupted at any moment, the password in the user database still opens the mail.
The change is undone only if COMMAND's exit status says that nothing has changed.

FAILURES
    NothingChanged: COMMAND changed nothing, and the keyring is as before.  NotSettled:
    COMMAND has changed the user database, but the change of the keyring could not be
    completed.  TemporaryError: it is unknown what COMMAND did; both passwords open the keyring.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mailseal import errors
from mailseal.errors import (
    ChangeGone,
    MailsealError,
    NothingChanged,
    NotSettled,
    TemporaryError,
    UsageError,
)

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from mailseal.admin.command import Context

CERTAIN = frozenset(
    {
        errors.EX_USAGE,
        errors.EX_DATAERR,
        errors.EX_NOUSER,
        errors.EX_UNAVAILABLE,
        errors.EX_NOPERM,
        errors.EX_CONFIG,
    }
)
"""Exit statuses of COMMAND which mean that it has changed nothing."""

TIMEOUT = 300
"""Time limit of COMMAND in seconds; the agent keeps a change open for twice as long."""

_BOTH = "the old and the new password both open the keyring until a login shows which one is valid"


def add_options(parser: ArgumentParser) -> None:
    """Add --then and --keep-old, for commands that set a new password."""
    parser.add_argument(
        "--then",
        metavar="COMMAND",
        nargs="...",
        help="run COMMAND as the calling user (must be the last option); it reads the new password "
        "as one line from standard input and sets it in the user database; exit status 0 means "
        f"success, {', '.join(map(str, sorted(CERTAIN)))} mean that nothing has changed",
    )
    parser.add_argument(
        "--keep-old",
        action="store_true",
        help="keep both passwords valid, and print the id of this change for "
        "`mailseal passwd USER --commit ID` or `--undo ID`",
    )


def check_options(context: Context) -> None:
    """Raise UsageError for options that cannot be used together."""
    arguments = context.arguments
    if arguments.then is None:
        return
    if arguments.keep_old:
        raise UsageError("--then and --keep-old cannot be used together")
    if not arguments.then:
        raise UsageError("--then needs a COMMAND")


def change(context: Context, verb: str, user: bytes, new: bytes, **fields: bytes) -> bool:
    """Change the password as the options say.

    Returns False if only the keyring has the new password.
    """
    arguments = context.arguments
    fields |= {"user": user, "new": new}
    if arguments.then is None and not arguments.keep_old:
        context.ask(verb, **fields)
        return False
    change_id = context.ask(verb, keep_old=b"1", **fields).fields["change"]
    if arguments.keep_old:
        sys.stdout.write(f"{change_id.decode()}\n")
    else:
        set_elsewhere(arguments.then, new, lambda end: _end(context, end, user, change_id))
        sys.stdout.write("password changed in both places\n")
    return True


def note_one_place(context: Context) -> None:
    """Print that the user database, if there is one, still has the old password."""
    if context.config.login.password_check != "keyring":  # noqa: S105 - no password
        sys.stderr.write(
            "mailseal: note: only the keyring has the new password now. Set it in the user "
            "database too, or the user cannot log in with it. (--then changes both.)\n"
        )


def _end(context: Context, verb: str, user: bytes, change_id: bytes) -> None:
    context.ask(verb, user=user, change=change_id)


def set_elsewhere(command: Sequence[str], new: bytes, end: Callable[[str], None]) -> None:
    """Run COMMAND, and end the change of the keyring as its exit status says."""
    name = command[0]
    status, why = _run(command, new)
    if status == 0:
        try:
            end("commit")
        except ChangeGone as exc:
            raise NotSettled(
                f"{name} has changed the user database, but the keyring does not have the new "
                f"password: {exc}",
                hint="run `mailseal rewrap USER` with the old password or a recovery code",
            ) from None
        except MailsealError as exc:
            raise NotSettled(
                f"{name} has changed the user database, but the change of the keyring could not be "
                f"completed: {exc}",
                hint=f"the new password is valid; {_BOTH}; you need not do anything",
            ) from None
        return
    if status is None or status not in CERTAIN:
        raise TemporaryError(
            f"{name} {why}: it is not known whether the user database has the new password",
            hint=_BOTH,
        )
    try:
        end("undo")
    except MailsealError as exc:
        sys.stderr.write(f"mailseal: warning: {exc}; {_BOTH}\n")
    raise NothingChanged(f"{name} {why}: nothing has changed, the old password stays valid")


def _run(command: Sequence[str], new: bytes) -> tuple[int | None, str]:
    """COMMAND's exit status (None if it has none), and a text that says how it ended."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2)
    except OSError as exc:
        return errors.EX_CONFIG, f"cannot be run ({exc.strerror})"
    try:
        process.communicate(new + b"\n", timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return None, _given_up(process, f"took more than {TIMEOUT} seconds")
    except KeyboardInterrupt:
        return None, _given_up(process, "was interrupted")
    except OSError as exc:
        return None, _given_up(process, f"could not be waited for ({exc.strerror})")
    status = process.returncode
    if status < 0:
        return None, f"was ended by signal {-status}"
    return status, f"ended with status {status}"


def _given_up(process: subprocess.Popen[bytes], why: str) -> str:
    """Kill it, if permitted: a process that sudo has started belongs to root and continues."""
    try:
        process.kill()
    except OSError:
        return f"{why} and is still running"
    return f"{why} and was killed"
