# SPDX-License-Identifier: MIT
"""The progress of a long command on standard error: a bar on a terminal, or a line each minute.

The bar is tqdm's (Debian: python3-tqdm), if it is installed.
"""

from __future__ import annotations

import sys
import time
from typing import Any

_EVERY = 60.0


class Progress:
    """The progress for one user's mail."""

    def __init__(self, user: str, doing: str, *, quiet: bool = False) -> None:
        self._user, self._doing = user, doing
        self._quiet = quiet
        self._begun = self._told = time.monotonic()
        self._bar: Any = None
        self._with_bar = not quiet and sys.stderr.isatty()

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` mails are done."""
        if self._with_bar and self._bar is None:
            self._bar = _bar(f"{self._doing} {self._user}", total)
            self._with_bar = self._bar is not None
        if self._bar is not None:
            self._bar.total = max(total, done)
            self._bar.update(done - self._bar.n)
        elif not self._quiet and time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            sys.stderr.write(f"mailseal: {self._line(done, total)}\n")

    def _line(self, done: int, total: int) -> str:
        rate = done / max(time.monotonic() - self._begun, 0.001)
        left = max(total - done, 0) / rate if rate else 0
        return (
            f"{self._doing} {self._user}: {done} of {max(total, done)} mails, "
            f"{rate:.0f} per second, {left / 60:.0f} minutes left"
        )

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def _bar(text: str, total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(desc=text, total=total, unit="mail", dynamic_ncols=True)
