# SPDX-License-Identifier: MIT
"""Limits the speed of work on stored mail: to a rate, and to protect deliveries and logins.

    with Pace(rate=10_000_000, polite=True).piece() as piece:
        ...                                     # convert some mails
        piece.size = bytes

POLITE
    While other processes use the CPU, work takes a tenth of the time, and the rest is a pause.
    The lowest CPU and I/O priority is not enough: a delivery that calls fsync also waits for data
    that other processes have written, whatever their priority.  Time in which this process waits
    for a CPU does not count as work.  "Other processes" are those with normal priority:
    /proc/stat counts the time of nice processes separately.

FAILURES
    None.  If the kernel does not report this, the machine counts as in use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator

_REST = 9.0
"""Length of a pause, relative to the work before it."""
_LONGEST = 60.0
"""Seconds of a pause."""
_IN_USE = 0.01
"""Share of one CPU that other processes must use so that the machine counts as in use."""


@dataclasses.dataclass
class Piece:
    """How much was done, in bytes; the caller sets it."""

    size: int = 0


@dataclasses.dataclass(frozen=True)
class Pace:
    """`rate`: bytes per second; 0: no limit."""

    rate: float = 0.0
    polite: bool = False

    @contextlib.contextmanager
    def piece(self) -> Iterator[Piece]:
        """Pause after the work in this block."""
        piece = Piece()
        begun, waited, others = time.monotonic(), _waited(), _others()
        yield piece
        took = time.monotonic() - begun
        rest = piece.size / self.rate - took if self.rate else 0.0
        if self.polite and _in_use(others, took):
            rest = max(rest, min(_REST * (took - (_waited() - waited)), _LONGEST))
        if rest > 0:
            time.sleep(rest)


def _in_use(before: float, seconds: float) -> bool:
    now = _others()
    return not now or now - before >= _IN_USE * seconds


def _others() -> float:
    """CPU seconds that processes with normal priority have used; 0: unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/stat", "rb") as stream:
        return int(stream.readline().split()[1]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _waited() -> float:
    """Seconds that this process has waited for a CPU: proc(5), schedstat."""
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open("/proc/self/schedstat", "rb") as stream,
    ):
        return int(stream.readline().split()[1]) / 1e9
    return 0.0
