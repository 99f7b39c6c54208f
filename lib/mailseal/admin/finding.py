# SPDX-License-Identifier: MIT
"""One finding of check-config: its level and its text."""

from __future__ import annotations

import dataclasses

ERROR = "error"
"""Mail could be stored in clear or lost, or logins or deliveries fail."""

WARNING = "warning"
"""Something may not work as expected."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of check-config."""

    level: str
    text: str


def error(text: str) -> Finding:
    """See ERROR."""
    return Finding(ERROR, text)


def warning(text: str) -> Finding:
    """See WARNING."""
    return Finding(WARNING, text)
