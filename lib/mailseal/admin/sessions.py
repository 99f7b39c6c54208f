# SPDX-License-Identifier: MIT
"""Ends a user's open IMAP sessions, which still seal with keys that are about to be removed.

FAILURES
    TemporaryError if the sessions cannot be ended.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from mailseal.errors import TemporaryError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from mailseal.admin.command import Context

UNDER_WAY = 3.0
"""Seconds within which a mail is stored after its key was looked up: this happens when the mail has
arrived completely, and sealing, writing and syncing 100 MB took 1.2 s."""

# doveadm kick: success, or no sessions (EX_NOHOST; in 2.3.19 EX_OK too).
_KICKED = (0, 68)


def add_option(parser: ArgumentParser) -> None:
    """Add --kicked, for sites that end sessions in another way than `doveadm kick`."""
    parser.add_argument(
        "--kicked",
        action="store_true",
        help="do not run `doveadm kick`: the user's IMAP sessions were ended in another way",
    )


def end(context: Context, user: str) -> None:
    """Run `doveadm kick USER`, unless --kicked was given."""
    if not context.arguments.kicked:
        kick(user)


def kick(user: str) -> None:
    """Run `doveadm kick USER`."""
    hint = "end the user's IMAP sessions in another way, and use --kicked"
    try:
        status = subprocess.run(["doveadm", "kick", user], capture_output=True).returncode
    except OSError as exc:
        raise TemporaryError(f"cannot run doveadm kick: {exc.strerror}", hint=hint) from None
    if status not in _KICKED:
        raise TemporaryError(f"doveadm kick {user} ended with status {status}", hint=hint)
