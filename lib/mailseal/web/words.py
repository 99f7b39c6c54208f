# SPDX-License-Identifier: MIT
"""Texts for users about errors, days and numbers; texts.py translates them."""

from __future__ import annotations

import time

from mailseal import errors
from mailseal.errors import MailsealError


def N_(text: str) -> str:  # noqa: N802 - gettext's name: a text to be translated later
    """Marks a text for translation."""
    return text


_TEXTS: tuple[tuple[type[MailsealError], str], ...] = (
    (
        errors.TooManyGuesses,
        N_("There were too many wrong passwords. Wait a minute, then try again."),
    ),
    (
        errors.WrongPassword,
        N_(
            "This password or code is not right. Type the password with which you read your mail. "
            "App passwords do not work here."
        ),
    ),
    (
        errors.BadPassword,
        N_("This cannot be a password: it is empty, too long, or contains a line end."),
    ),
    (errors.BadUserName, N_("This cannot be a user name.")),
    (
        errors.ChangePending,
        N_("Your password is being changed somewhere else. Try again in ten minutes."),
    ),
    (errors.AlreadyEnrolled, N_("Encryption is on already.")),
    (errors.NotEnrolled, N_("Encryption is off already.")),
    (errors.NothingChanged, N_("The password could not be changed. The old one stays valid.")),
    (
        errors.NotSettled,
        N_("The new password is valid. Sign in to your mail with it once, to complete the change."),
    ),
    (errors.NotPermitted, N_("This is not possible here.")),
    (
        errors.TemporaryError,
        N_(
            "This does not work at the moment. Try again in a few minutes. If you are not sure "
            "what was done, look at the overview."
        ),
    ),
    (errors.UsageError, N_("Something that you typed cannot be used.")),
)


def of_error(exc: MailsealError) -> str:
    """The text for the user; the message of the error is for administrators."""
    for kind, text in _TEXTS:
        if isinstance(exc, kind):
            return text
    return _TEXTS[-2][1]


def day(language: str, seconds: int | None) -> str:
    """A date for people."""
    if seconds is None:
        return ""
    form = "%d.%m.%Y" if language.partition("_")[0] == "de" else "%Y-%m-%d"
    return time.strftime(form, time.gmtime(seconds))


def number(language: str, value: int) -> str:
    """A number with separators for thousands."""
    return f"{value:,}".replace(",", "." if language.partition("_")[0] == "de" else ",")
