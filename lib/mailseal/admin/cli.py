# SPDX-License-Identifier: MIT
"""mailseal: the admin command.

SYNOPSIS
    mailseal [-c CONFIG] COMMAND ...

DESCRIPTION
    Everything that concerns keys goes through the agent's socket; this program reads
    no keyring.  `mailseal COMMAND -h` explains one command.

DIAGNOSTICS
    Errors go to standard error as `mailseal: error: ...`, often with a second line
    `mailseal: hint: ...`.  Exit status (sysexits.h):
    0   done
    64  wrong arguments, or a password or user name that cannot be one
    65  stored data is damaged, not sealed, or already there
    67  no such user, or not enrolled
    75  temporary failure: agent not running, disk full, changed by somebody else
    77  wrong password, or not permitted
    78  the configuration is wrong
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from mailseal import config as configuration
from mailseal import errors
from mailseal.config import Config
from mailseal.errors import MailsealError, NotPermitted, TemporaryError, UsageError
from mailseal.login.client import AgentClient, Reply

# Several Argon2id runs may be waiting before ours.
_TIMEOUT = 120.0


class Context:
    """What a command works with."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.config_path: str = arguments.config
        self._config: Config | None = None

    @property
    def config(self) -> Config:
        """The configuration, read when it is first needed."""
        if self._config is None:
            self._config = configuration.load(self.config_path)
        return self._config

    def ask(self, verb: str, **fields: bytes) -> Reply:
        """One request to the agent.  Anything but "ok" raises the error it stands for."""
        with AgentClient(self.config["agent.socket"], _TIMEOUT) as agent:
            reply = agent.request(verb, **fields)
        if reply.status == "ok":
            return reply
        raise error_of(reply)


def error_of(reply: Reply) -> MailsealError:
    """The error that an answer of the agent stands for."""
    if reply.status == "denied":
        return NotPermitted(
            f"the key agent does not take orders from uid {os.getuid()}",
            hint="see agent.admin_users in the configuration",
        )
    if reply.status != "error":
        return TemporaryError(reply.text("reason") or f"the key agent says {reply.status}")
    found = getattr(errors, reply.text("class"), None)
    if not (isinstance(found, type) and issubclass(found, MailsealError)):
        found = MailsealError
    return found(reply.text("message"), hint=reply.text("hint") or None)


Command = Callable[[Context], int]


class Commands:
    """The table of commands, each with its arguments."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._adder = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(self, name: str, run: Command, text: str) -> argparse.ArgumentParser:
        """A command; returns its parser, for the arguments."""
        parser = self._adder.add_parser(
            name, help=text, description=f"{text[:1].upper()}{text[1:]}."
        )
        parser.set_defaults(run=run)
        return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, hint=f"try `{self.prog} -h`")


def build_parser() -> argparse.ArgumentParser:
    """All commands.  Modules that bring some have a function `register`."""
    from mailseal.admin import (
        backup_commands,
        config_commands,
        key_commands,
        mail_commands,
        slot_commands,
        unenroll,
    )

    parser = _Parser(prog="mailseal", description="Mail sealed at rest: the admin command.")
    parser.add_argument("-c", "--config", default=configuration.DEFAULT_PATH, metavar="FILE")
    commands = Commands(parser)
    modules = (
        key_commands,
        slot_commands,
        backup_commands,
        unenroll,
        mail_commands,
        config_commands,
    )
    for module in modules:
        module.register(commands)
    return parser


def main(argv: list[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        arguments = build_parser().parse_args(argv[1:])
        run: Command = arguments.run
        status = run(Context(arguments))
        sys.stdout.flush()
        return status
    except MailsealError as exc:
        sys.stderr.write(f"mailseal: error: {exc}\n")
        if exc.hint:
            sys.stderr.write(f"mailseal: hint: {exc.hint}\n")
        return exc.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return errors.EX_TEMPFAIL
    except KeyboardInterrupt:
        return 130
