# SPDX-License-Identifier: MIT
"""mailseal cat: open one stored mail with its owner's password.

The password is read from the terminal.  If there is no terminal, or with --stdin,
it is one line of standard input.  Nothing is written before the tag of the
complete mail has been checked, so a changed mail is never written.

FAILURES
    NotSealed, Damaged (changed or truncated), NoKey, WrongPassword.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from mailseal.admin.prompt import Passwords
from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import TemporaryError

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context

_HEADER = 65536


def register(commands: Commands) -> None:
    """Add this module's commands."""
    parser = commands.add(
        "cat",
        cat,
        "open a sealed mail file and write it to standard output",
        group="mail",
        example="mailseal cat /srv/mail/example.com/alice/Maildir/cur/1700000000.M1P1.host:2,S",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--user", help="owner of the mail (default: the user whose key id is in the file)"
    )
    parser.add_argument("--stdin", action="store_true", help="password from standard input")


def cat(context: Context) -> int:
    """See the module's docstring."""
    path = context.arguments.file
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(open(path, "rb"))
        except OSError as exc:
            raise TemporaryError(f"cannot read {path}: {exc.strerror}") from None
        info = dcrypt.inspect(stream.read(_HEADER))
        stream.seek(0)
        user = context.arguments.user
        if user is None:
            user = context.ask("find", key_id=info.key_ids[0]).text("user")
        password = Passwords(from_stdin=context.arguments.stdin).ask(f"password of {user}")
        answer = context.ask("open", user=os.fsencode(user), password=password)
        keys = [PrivateKey.parse(line) for line in answer.text("keys").split("\n")]
        for part in dcrypt.open_sealed(stream, keys):
            sys.stdout.buffer.write(part)
    return 0
