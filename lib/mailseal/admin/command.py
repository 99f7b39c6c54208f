# SPDX-License-Identifier: MIT
"""The common parts of all commands: arguments, the configuration, and the key agent."""

from __future__ import annotations

import argparse
import dataclasses
import os
import textwrap
from collections.abc import Callable, Iterator
from typing import Literal, get_args

from mailseal import config as configuration
from mailseal import errors
from mailseal.config import Config
from mailseal.errors import MailsealError, NotPermitted, TemporaryError
from mailseal.login.client import AgentClient, Answer

# Other Argon2id computations may be waiting before this one.
_TIMEOUT = 120.0


class Context:
    """The arguments of a command, the configuration, and the agent."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.config_path: str = arguments.config
        self._config: Config | None = None

    @property
    def config(self) -> Config:
        """The configuration; it is read at the first use."""
        if self._config is None:
            self._config = configuration.load(self.config_path)
        return self._config

    def ask(self, verb: str, **fields: bytes) -> Answer:
        """Send one request to the agent.  Each status but "ok" raises its error."""
        return ask(self.config, verb, **fields)


def ask(config: Config, verb: str, **fields: bytes) -> Answer:
    """See Context.ask()."""
    with AgentClient(config.agent.socket, _TIMEOUT) as agent:
        answer = agent.request(verb, **fields)
    if answer.status == "ok":
        return answer
    raise error_of(answer)


def error_of(answer: Answer) -> MailsealError:
    """The error in an answer of the agent."""
    if answer.status == "denied":
        return NotPermitted(
            f"the key agent does not permit this to uid {os.getuid()}",
            hint="see agent.admin_users and agent.panel_users in the configuration",
        )
    if answer.status != "error":
        return TemporaryError(answer.text("reason") or f"the key agent answered {answer.status}")
    found = getattr(errors, answer.text("class"), None)
    if not (isinstance(found, type) and issubclass(found, MailsealError)):
        found = MailsealError
    return found(answer.text("message"), hint=answer.text("hint") or None)


Command = Callable[[Context], int]

Group = Literal["users", "passwords and keys", "mail", "operation"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""In the order in which help and manual page show them."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One command, as help and manual page show it."""

    name: str
    text: str
    group: Group
    example: str
    parser: argparse.ArgumentParser


class Commands:
    """The table of commands, each with its arguments."""

    def __init__(
        self, parser: argparse.ArgumentParser, parser_class: type[argparse.ArgumentParser]
    ) -> None:
        self._adder = parser.add_subparsers(
            dest="command", required=True, metavar="COMMAND", parser_class=parser_class
        )
        self.entries: list[Entry] = []

    def add(
        self, name: str, run: Command, text: str, *, group: Group, example: str
    ) -> argparse.ArgumentParser:
        """Add a command.  Returns its parser, for its arguments.  `example`: one command line."""
        parser = self._adder.add_parser(
            name,
            description=textwrap.fill(f"{text[:1].upper()}{text[1:]}.", 78),
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run)
        self.entries.append(Entry(name, text, group, example, parser))
        return parser

    def in_groups(self) -> Iterator[tuple[Group, list[Entry]]]:
        """Each group with its commands."""
        for group in GROUPS:
            yield group, [entry for entry in self.entries if entry.group == group]
