# SPDX-License-Identifier: MIT
"""The common parts of the agent's verbs: types, errors, log lines."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from mailseal.errors import MailsealError, UsageError
from mailseal.keys.keyring import Keyring
from mailseal.keys.names import normalise
from mailseal.login.protocol import Fields

Answer = tuple[str, Fields]
"""Status word and fields of an answer."""

STALE = "password changed without mailseal"
"""How the reason begins if the other passdb accepts a password that does not open the keyring."""

Verb = Callable[[Fields], Awaitable[Answer]]


def error_answer(exc: MailsealError) -> Answer:
    """The answer for an error.  It contains the class, so that the command has the exit status."""
    fields = {"class": type(exc).__name__.encode(), "message": str(exc).encode()}
    if exc.hint:
        fields["hint"] = exc.hint.encode()
    return "error", fields


def needed(fields: Fields, name: str) -> bytes:
    """A required field.  Raises UsageError."""
    try:
        return fields[name]
    except KeyError:
        raise UsageError(f"the request has no field {name}") from None


def text_of(fields: Fields, name: str) -> str:
    """A required field as text.  Raises UsageError."""
    return needed(fields, name).decode("utf-8", "replace")


def user_of(fields: Fields) -> str:
    """The user of a request.  Raises UsageError, BadUserName."""
    return normalise(needed(fields, "user"))


def note_enrollment(log: logging.Logger, keyring: Keyring) -> None:
    """Log a new keyring, and with a warning if there is no recovery method."""
    log.info("enroll: user=<%s>, keyid=%s", keyring.user, keyring.current.key_id.hex())
    if not keyring.has_second_way:
        log.warning(
            "user=<%s> HAS NO RECOVERY METHOD: a forgotten password means lost mail; "
            "run `mailseal recovery-code %s`",
            keyring.user,
            keyring.user,
        )
