# SPDX-License-Identifier: MIT
"""A user that exists only during one run: two commands of the site make it and remove it.

Each command gets the address as its last argument.  The first one also reads the new password
as one line of standard input.  The user must not exist before.

FAILURES
    UsageError: the user exists.  TemporaryError: a command failed, or Dovecot does not know the
    user afterwards.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailseal.delivery.dovecot import userdb
from mailseal.errors import MailsealError, TemporaryError, UsageError
from mailseal.keys.names import normalise

if TYPE_CHECKING:
    from mailseal.admin.command import Context

_TIMEOUT = 60
"""Seconds for one command."""

_PATIENCE = 30.0
_PAUSE = 0.1


@contextlib.contextmanager
def made(context: Context, user: str, add: str, remove: str) -> Iterator[bytes]:
    """The password of the user, who is enrolled.  At the end, the user is removed."""
    name = normalise(os.fsencode(user))
    source = userdb.DovecotUserdb(context.config)
    if source.lookup(name) is not None:
        raise UsageError(
            f"{name} exists: a throw-away user must not exist",
            hint="use another address; doctor removes this user at the end",
        )
    password = secrets.token_urlsafe(18).encode()
    _run(add, name, password)
    try:
        end = time.monotonic() + _PATIENCE
        while source.lookup(name) is None:
            if time.monotonic() > end:
                raise TemporaryError(f"Dovecot does not know {name} after `{add} {name}`")
            time.sleep(_PAUSE)
        context.ask("enroll", user=name.encode(), password=password)
        try:
            yield password
        finally:
            context.ask("unenroll", user=name.encode())
    finally:
        try:
            _run(remove, name, b"")
        except MailsealError as exc:
            sys.stderr.write(f"mailseal: warning: the user {name} was not removed: {exc}\n")


def _run(command: str, user: str, password: bytes) -> None:
    words = shlex.split(command)
    if not words:
        raise UsageError("--add and --remove need a command")
    try:
        status = subprocess.run(
            [*words, user], input=password + b"\n", timeout=_TIMEOUT, stdout=sys.stderr
        ).returncode
    except OSError as exc:
        raise TemporaryError(f"cannot run {words[0]}: {exc.strerror}") from None
    except subprocess.TimeoutExpired:
        raise TemporaryError(f"{words[0]} did not end within {_TIMEOUT} seconds") from None
    if status:
        raise TemporaryError(f"{words[0]} ended with status {status}")
