# SPDX-License-Identifier: MIT
"""What a check has found: a sentence for people, and how bad it is."""

from __future__ import annotations

import dataclasses

ERROR = "error"
"""Mail could be stored in clear, could get lost, or a login or a delivery cannot work."""

WARNING = "warning"
"""Something may not do what one expects of it."""


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
