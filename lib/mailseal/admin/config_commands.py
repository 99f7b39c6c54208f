# SPDX-License-Identifier: MIT
"""mailseal check-config, print-config, init: the configuration, and the store it names."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mailseal.config import describe

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context


def register(commands: Commands) -> None:
    """Add this module's commands."""
    commands.add("check-config", check, "check the configuration file")
    commands.add("init", init, "make the folders for keys, once, at installation")
    commands.add("print-config", show, "print every option with its value and meaning, as YAML")


def check(context: Context) -> int:
    """One line: errors name file, line and option.  Warnings are about Dovecot's configuration."""
    from mailseal.admin import dovecot_check

    sys.stdout.write(f"{context.config.path}: ok\n")
    for warning in dovecot_check.warnings(context.config):
        sys.stderr.write(f"mailseal: warning: {warning}\n")
    return 0


def init(context: Context) -> int:
    """Make the store.  Running it again changes nothing."""
    from mailseal.login import startup

    folder = startup.init(context.config)
    sys.stdout.write(f"{folder} is ready for keys\n")
    return 0


def show(context: Context) -> int:
    """The output is a configuration file that means the same."""
    sys.stdout.write(describe(context.config))
    return 0
