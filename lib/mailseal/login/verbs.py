# SPDX-License-Identifier: MIT
"""What the agent's verbs have in common: their type, their errors, a few log lines."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from mailseal.errors import MailsealError, UsageError
from mailseal.keys.keyring import Keyring
from mailseal.keys.names import normalise
from mailseal.login.protocol import Fields

Answer = tuple[str, Fields]
"""Status word and fields of an answer."""

Verb = Callable[[Fields], Awaitable[Answer]]


def error_answer(exc: MailsealError) -> Answer:
    """An error for people: its class travels, so that the command line ends with its status."""
    fields = {"class": type(exc).__name__.encode(), "message": str(exc).encode()}
    if exc.hint:
        fields["hint"] = exc.hint.encode()
    return "error", fields


def needed(fields: Fields, name: str) -> bytes:
    """A field that must be there.  Raises UsageError."""
    try:
        return fields[name]
    except KeyError:
        raise UsageError(f"the request lacks the field {name}") from None


def text_of(fields: Fields, name: str) -> str:
    """A field of text that must be there.  Raises UsageError."""
    return needed(fields, name).decode("utf-8", "replace")


def user_of(fields: Fields) -> str:
    """The user a request is about.  Raises UsageError, BadUserName."""
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
