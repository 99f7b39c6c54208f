# SPDX-License-Identifier: MIT
"""mailseal check-config, print-config, init: the configuration, and the folders for keys.

The exit status of check-config is 0 if it finds nothing, 1 for warnings and 2 for
errors.  If the configuration file cannot be used, it is 78, as for all commands.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from mailseal.admin.finding import ERROR, Finding
from mailseal.config import describe

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context


def register(commands: Commands) -> None:
    """Add this module's commands."""
    parser = commands.add(
        "check-config",
        check,
        "check mailseal's configuration file and Dovecot's configuration",
        group="operation",
        example="mailseal check-config",
    )
    parser.add_argument(
        "--file-only", action="store_true", help="check only the configuration file"
    )
    parser.add_argument(
        "--no-sockets",
        action="store_true",
        help="do not check sockets: use this before Dovecot is started with new settings",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser = commands.add(
        "init",
        init,
        "make the folders for keys; run it once, at installation",
        group="operation",
        example="mailseal init",
    )
    parser.add_argument(
        "--store",
        nargs="?",
        const="",
        metavar="URL",
        help="make or upgrade the tables in the database instead, as the user who runs this "
        "command; URL: another way to it than keys.store",
    )
    commands.add(
        "print-config",
        show,
        "print all options with their values and meanings, as YAML",
        group="operation",
        example="mailseal print-config",
    )


def check(context: Context) -> int:
    """Findings are written to standard error, errors first; --json prints one object."""
    from mailseal.admin.config_findings import FAMILIES, SOCKETS
    from mailseal.doveconf import Doveconf

    config = context.config
    found: list[Finding] = []
    doveconf = Doveconf()
    for family in () if context.arguments.file_only else FAMILIES:
        if not (family.name == SOCKETS and context.arguments.no_sockets):
            found += family.find(config, doveconf)
    found.sort(key=lambda finding: finding.level != ERROR)
    status = 0 if not found else 2 if found[0].level == ERROR else 1
    words = ("ok", "warnings", "errors")[status]
    if context.arguments.json:
        listed = [dataclasses.asdict(finding) for finding in found]
        json.dump({"file": config.path, "status": words, "findings": listed}, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return status
    sys.stdout.write(f"{config.path}: {words}\n")
    for finding in found:
        sys.stderr.write(f"mailseal: {finding.level}: {finding.text}\n")
    return status


def init(context: Context) -> int:
    """Make the folders.  Running it again changes nothing."""
    from mailseal.login import startup

    if context.arguments.store is not None:
        return _init_store(context)
    folder = startup.init(context.config)
    sys.stdout.write(f"{folder} is ready for keys\n")
    return 0


def _init_store(context: Context) -> int:
    """The tables, and what agents and replicas may do with them."""
    from mailseal.errors import UsageError
    from mailseal.keys import opening
    from mailseal.keys.sql import database as tables
    from mailseal.keys.sql import schema

    config = context.config
    store = context.arguments.store or config.keys.store
    if store == opening.FILES:
        raise UsageError("keys.store is files", hint="see docs/several-hosts.md")
    option = None if context.arguments.store else "keys.store"
    database = opening.database(store, config.keys.store_password, any_schema=True, option=option)
    found = schema.migrate(database)
    roles = [
        opening.role(url, user)
        for url, user in (
            (config.keys.store, config.agent.user),
            (config.replica.store or config.keys.store, config.replica.user),
        )
    ]
    schema.grant(database, *roles)
    word = "made" if not found else "upgraded" if found < tables.SCHEMA_VERSION else "there already"
    sys.stdout.write(f"{database.address}: tables {word}, for the roles {' and '.join(roles)}\n")
    return 0


def show(context: Context) -> int:
    """The output is an equivalent configuration file."""
    sys.stdout.write(describe(context.config))
    return 0
