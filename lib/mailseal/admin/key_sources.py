# SPDX-License-Identifier: MIT
"""Private keys for commands that read a user's mail.  They stay in the memory of this process.

    login password or recovery code     the key agent opens the keyring
    --escrow-key PEM                    this process opens the stored keyring
    a file                              one key in PEM, or the output of `export-key`

FAILURES
    WrongPassword; NotEnrolled; Damaged; TemporaryError if a file cannot be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailseal import durable
from mailseal.admin.prompt import Passwords
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import Damaged, UsageError, WrongPassword

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from mailseal.admin.command import Context

_MAX_FILE = 1 << 16


def add_options(parser: ArgumentParser) -> None:
    """Add the options for Source.  The option `key`, for a file with keys, is the command's own."""
    parser.add_argument("--escrow-key", metavar="PEM", help="open with the escrow private key")
    parser.add_argument(
        "--stdin",
        action="store_true",
        help="password or recovery code from standard input, one line for each USER",
    )


class Source:
    """The source of keys for one command."""

    def __init__(self, context: Context) -> None:
        from mailseal.login import hardening

        # Before this process has any keys.
        hardening.forbid_dumps()
        self._context = context
        arguments = context.arguments
        if arguments.escrow_key and arguments.key:
            raise UsageError("--escrow-key cannot be used together with a file of keys")
        self._passwords = Passwords(from_stdin=arguments.stdin)
        self._escrow: PrivateKey | None = None
        self._file: list[PrivateKey] = []
        if arguments.escrow_key:
            self._escrow = private_key(arguments.escrow_key, "the escrow key", arguments.stdin)
        elif arguments.key:
            self._file = private_keys(arguments.key, arguments.stdin)

    def of(self, user: str) -> list[PrivateKey]:
        """The user's private keys."""
        if self._file:
            return self._file
        if self._escrow is not None:
            from mailseal.keys.keyring import Keyring

            stored = self._context.ask("backup", user=user.encode()).fields["keyring"]
            return list(Keyring.parse(stored, user).open_escrow(self._escrow).keys)
        secret = self._passwords.ask(f"password or recovery code of {user}")
        try:
            answer = self._context.ask("export", user=user.encode(), secret=secret)
        except WrongPassword:
            self._context.ask("status", user=user.encode())  # NotEnrolled, if that is the reason
            raise
        return [PrivateKey.parse(line) for line in answer.text("keys").split("\n")]


def private_key(path: str, what: str, from_stdin: bool) -> PrivateKey:
    """The key in a PEM file.  Asks for its password if it has one."""
    return _parsed(path, _text(path), what, from_stdin)


def private_keys(path: str, from_stdin: bool) -> list[PrivateKey]:
    """One key in PEM, or key strings in Dovecot's format, one in each line."""
    text = _text(path)
    if "-----BEGIN" in text:
        ends = "-----END"
        pieces = text.split("-----BEGIN")[1:]
        if not all(ends in piece for piece in pieces):
            raise UsageError(f"{path} is not a complete PEM file")
        return [_parsed(path, f"-----BEGIN{piece}", "the key", from_stdin) for piece in pieces]
    return [PrivateKey.parse(line) for line in text.splitlines() if line.strip()]


def _text(path: str) -> str:
    with durable.reporting(f"cannot read {path}"), open(path, "rb") as stream:
        return stream.read(_MAX_FILE).decode("ascii", "replace")


def _parsed(path: str, text: str, what: str, from_stdin: bool) -> PrivateKey:
    password = None
    if "ENCRYPTED" in text:
        password = Passwords(from_stdin=from_stdin).ask(f"password of {what}")
    try:
        return PrivateKey.parse(text, password)
    except Damaged as exc:
        raise Damaged(f"{path}: {exc}") from None
