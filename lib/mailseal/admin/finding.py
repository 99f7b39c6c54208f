# SPDX-License-Identifier: MIT
"""One finding of check-config: its level, its text, and what to do."""

from __future__ import annotations

import dataclasses

ERROR = "error"
"""Mail could be stored in clear or lost, or logins or deliveries fail."""

WARNING = "warning"
"""Something may not work as expected."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of check-config.

    `remedy`: what to do, with commands or settings in backticks, for `mailseal doctor`.  Empty: the
    text says it.
    """

    level: str
    text: str
    remedy: str = ""


def error(text: str, remedy: str = "") -> Finding:
    """See ERROR."""
    return Finding(ERROR, text, remedy)


def warning(text: str, remedy: str = "") -> Finding:
    """See WARNING."""
    return Finding(WARNING, text, remedy)
