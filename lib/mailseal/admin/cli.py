# SPDX-License-Identifier: MIT
"""mailseal: the admin command.

SYNOPSIS
    mailseal [-c CONFIG] COMMAND ...

DESCRIPTION
    All operations on keys are requests to the agent; this program does not read
    keyrings.  `mailseal COMMAND -h` describes one command.

DIAGNOSTICS
    Errors are written to standard error as `mailseal: error: ...`, often with a second
    line `mailseal: hint: ...`.  Exit status (sysexits.h):
    0   success
    1   verify has found a problem; doctor or check-config has only warnings; a daemon does not
        answer `mailseal health`
    2   doctor or check-config has found an error; setup cannot set up this mail server
    64  wrong arguments, or a password or user name that is not allowed
    65  stored data is damaged, not sealed, or exists already; or a password change is not open
    67  no such user, or not enrolled
    69  COMMAND of --then has changed nothing, so the keyring has not changed either
    75  temporary failure: agent not running, disk full, keyring changed by another process
    76  COMMAND of --then has set the new password, but the change of the keyring could not be
        completed; or --compromised has set it, but there is no new master key
    77  wrong password, or not permitted
    78  the configuration is wrong
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
import textwrap

from mailseal import __version__, errors
from mailseal import config as configuration
from mailseal.admin.command import Command, Commands, Context
from mailseal.errors import MailsealError, UsageError

_NO_COMMAND = re.compile(r"argument COMMAND: invalid choice: '(.*?)' ")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, hint=f"try `{self.prog} -h`")


class _MainParser(_Parser):
    """Its help shows the commands in groups, which argparse cannot do."""

    commands: Commands

    def error(self, message: str) -> None:  # type: ignore[override]
        wrong = _NO_COMMAND.match(message)
        if not wrong:
            super().error(message)
            return
        names = [entry.name for _, entries in self.commands.in_groups() for entry in entries]
        near = difflib.get_close_matches(wrong[1], names, 1)
        hint = f"did you mean `{self.prog} {near[0]}`?" if near else f"try `{self.prog} -h`"
        raise UsageError(f"there is no command {wrong[1]}", hint=hint)

    def format_help(self) -> str:
        lines = [self.format_usage(), f"{self.description}", ""]
        for group, entries in self.commands.in_groups():
            lines.append(f"{group}:")
            for entry in entries:
                first, *more = textwrap.wrap(entry.text, 60)
                lines.append(f"  {entry.name:15} {first}")
                lines += [f"{'':18}{line}" for line in more]
            lines.append("")
        lines += ["options:", *(f"  {names:15} {text}" for names, text in _OPTIONS), ""]
        lines.append("`mailseal COMMAND -h` describes one command; mailseal(1) describes all.\n")
        return "\n".join(lines)


_OPTIONS = (
    ("-c FILE", f"the configuration (default: {configuration.DEFAULT_PATH})"),
    ("-h, --help", "this text"),
    ("--version", "the version of mailseal"),
)


def build_parser() -> _MainParser:
    """The parser with all commands."""
    from mailseal.admin import (
        backup_commands,
        config_commands,
        convert_commands,
        enroll,
        health,
        host_commands,
        key_commands,
        mail_commands,
        move_store,
        pair_commands,
        slot_commands,
        status,
        unenroll,
        verify,
    )
    from mailseal.admin.doctor import command as doctor
    from mailseal.admin.setup import command as setup

    parser = _MainParser(
        prog="mailseal", description="Administers mailseal, which encrypts stored mail."
    )
    parser.add_argument("-c", "--config", default=configuration.DEFAULT_PATH, metavar="FILE")
    parser.add_argument("--version", action="version", version=f"mailseal {__version__}")
    parser.commands = commands = Commands(parser, _Parser)
    modules = (
        convert_commands,
        enroll,
        key_commands,
        status,
        slot_commands,
        backup_commands,
        pair_commands,
        unenroll,
        verify,
        mail_commands,
        host_commands,
        move_store,
        config_commands,
        health,
        doctor,
        setup,
    )
    for module in modules:
        module.register(commands)
    return parser


def main(argv: list[str]) -> int:
    """Run one command; returns the exit status."""
    # If the parent process ignores it, exit statuses of child processes would be lost.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        arguments = build_parser().parse_args(argv[1:])
        run: Command = arguments.run
        ended = run(Context(arguments))
        sys.stdout.flush()
        return ended
    except MailsealError as exc:
        errors.print_error("mailseal", exc)
        return exc.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return errors.EX_TEMPFAIL
    except KeyboardInterrupt:
        return 130
