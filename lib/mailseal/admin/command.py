# SPDX-License-Identifier: MIT
"""What all commands use: arguments, the configuration, and the key agent."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from mailseal import config as configuration
from mailseal import errors
from mailseal.config import Config
from mailseal.errors import MailsealError, NotPermitted, TemporaryError
from mailseal.login.client import AgentClient, Answer

# Other Argon2id computations may be waiting before this one.
_TIMEOUT = 120.0


class Context:
    """What a command uses."""

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

    def ask(self, verb: str, **fields: bytes) -> Answer:
        """One request to the agent.  Anything but "ok" raises the error it stands for."""
        with AgentClient(self.config.agent.socket, _TIMEOUT) as agent:
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
