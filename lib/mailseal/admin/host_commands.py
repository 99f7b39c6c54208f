# SPDX-License-Identifier: MIT
"""mailseal hosts: the hosts that have a copy of the public keys."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from mailseal.keys import record

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context


def register(commands: Commands) -> None:
    """Add this module's command."""
    parser = commands.add(
        "hosts",
        hosts,
        "list the hosts that have a copy of the public keys",
        group="operation",
        example="mailseal hosts",
    )
    parser.add_argument(
        "--forget",
        metavar="NAME",
        help="remove a host that will never deliver mail again, or its row from before a reboot",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def hosts(context: Context) -> int:
    """List the hosts, one on each line, or remove one."""
    if context.arguments.forget is not None:
        context.ask("forget_host", name=context.arguments.forget.encode())
        sys.stdout.write(f"{context.arguments.forget} is forgotten\n")
        return 0
    found = record.parse(context.ask("hosts").fields["hosts"])
    if context.arguments.json:
        json.dump(found, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    for host in found:
        silent = f", silent for {host['silent']:.0f} s" if host["silent"] > host["lease"] else ""
        sys.stdout.write(
            f"{host['name']}: last change {host['applied']}, lease {host['lease']} s, "
            f"seen {host['seen']}{silent}\n"
        )
    return 0
