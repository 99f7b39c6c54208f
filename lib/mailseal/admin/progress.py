# SPDX-License-Identifier: MIT
"""How far a long command is: a bar on a terminal, and otherwise nothing.

The bar is tqdm's (Debian's python3-tqdm), if it is installed; it is imported only here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

Advance = Callable[[int], object]


@contextlib.contextmanager
def progress(what: str, unit: str = "mails", *, total: int | None = None) -> Iterator[Advance]:
    """Yields what is to be called with the number of units that were done since the last call."""
    bar = _bar(what, unit, total) if sys.stderr.isatty() else None
    if bar is None:
        yield lambda _: None
        return
    try:
        yield bar.update
    finally:
        bar.close()


def _bar(what: str, unit: str, total: int | None) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(desc=what, unit=f" {unit}", total=total, file=sys.stderr, leave=False)
