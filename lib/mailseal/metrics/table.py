# SPDX-License-Identifier: MIT
"""The table of metrics: what each daemon counts.  Alert rules and the dashboard use these names.

Each label has a fixed set of values, so no user name, address or key id can become a label, and
the number of series is fixed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from functools import cached_property

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

Values = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.  `series`: the values of its labels, for each series."""

    name: str
    kind: str
    help: str
    labels: Values = ()
    series: tuple[Values, ...] = ((),)
    bounds: tuple[float, ...] = ()
    """Of a histogram: the upper bounds of its buckets, without the last one."""

    @property
    def width(self) -> int:
        """Number of cells of one series.  A histogram has one for each bucket, and the sum."""
        return len(self.bounds) + 2 if self.kind == HISTOGRAM else 1


@dataclasses.dataclass(frozen=True)
class Layout:
    """The metrics of one daemon, and where their cells are in its file."""

    daemon: str
    metrics: tuple[Metric, ...]

    def __iter__(self) -> Iterator[tuple[Metric, Values, int]]:
        """Each series with its first cell."""
        at = 0
        for metric in self.metrics:
            for values in metric.series:
                yield metric, values, at
                at += metric.width

    @cached_property
    def cells(self) -> dict[tuple[str, Values], int]:
        """The first cell of each series, by name and values."""
        return {(metric.name, values): at for metric, values, at in self}

    @cached_property
    def size(self) -> int:
        """Number of cells."""
        return sum(metric.width * len(metric.series) for metric in self.metrics)

    @cached_property
    def digest(self) -> bytes:
        """Identifies this layout; another version of mailseal may have another one."""
        return hashlib.sha256(repr(self).encode()).digest()


def _each(*values: Iterable[str]) -> tuple[Values, ...]:
    return tuple(itertools.product(*values))


def _one(values: Iterable[str]) -> tuple[Values, ...]:
    return tuple((value,) for value in values)


ACTIONS = ("sealed", "relayed", "clear", "none")
SENT = ("2.0.0", "2.1.5", "2.6.0", "2.x.x")
REFUSED = (
    *("4.2.0", "4.2.1", "4.2.2", "4.3.0", "4.3.1", "4.3.2", "4.3.5", "4.4.1", "4.4.2", "4.7.0"),
    *("4.7.1", "4.x.x", "5.1.1", "5.1.3", "5.2.1", "5.2.2", "5.3.4", "5.6.7", "5.7.0", "5.7.1"),
    "5.x.x",
)
"""Enhanced status codes of mailseal and Dovecot.  Others are counted as 2.x.x, 4.x.x, 5.x.x."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

DELIVERY = Layout(
    "lmtp",
    (
        Metric(
            "mailseal_deliveries",
            COUNTER,
            "Recipients' mails, by what was done (as in the log) and the enhanced status code of "
            "the reply.  None: refused or deferred.",
            ("action", "reply"),
            (
                ("sealed", "2.0.0"),
                *_each(("relayed", "clear"), (*SENT, *REFUSED)),
                *_each(("none",), REFUSED),
            ),
        ),
        Metric(
            "mailseal_delivery_delay_seconds",
            HISTOGRAM,
            "Time from MAIL to the reply after the mail.",
            ("action",),
            _one(ACTIONS),
            _SECONDS,
        ),
        Metric("mailseal_lmtp_workers", GAUGE, "Worker processes."),
        Metric("mailseal_lmtp_worker_deaths", COUNTER, "Worker processes that ended unexpectedly."),
    ),
)

RESULTS = ("ok", "wrong", "unknown", "stale", "temporary")
POOLS = ("logins", "changes", "panels")
SLOTS = (*map(str, range(10)), "10 or more")
PAIRS = (*map(str, range(10)), "10 or more")

AGENT = Layout(
    "agent",
    (
        Metric(
            "mailseal_unlocks",
            COUNTER,
            "Logins, by the agent's answer.  Unknown: not enrolled.  Stale: the password was "
            "changed without mailseal.",
            ("result",),
            _one(RESULTS),
        ),
        Metric(
            "mailseal_unlock_delay_seconds",
            HISTOGRAM,
            "Time from the request of a login to the agent's answer.",
            ("result",),
            _one(RESULTS),
            _SECONDS,
        ),
        Metric(
            "mailseal_argon2_jobs",
            COUNTER,
            "Jobs that may need Argon2id and have begun to wait for a thread, by pool.",
            ("pool",),
            _one(POOLS),
        ),
        Metric(
            "mailseal_argon2_refused",
            COUNTER,
            "Jobs that were refused because too many were waiting.",
            ("pool",),
            _one(POOLS),
        ),
        Metric(
            "mailseal_argon2_waiting",
            GAUGE,
            "Jobs that run or wait at the moment.",
            ("pool",),
            _one(POOLS),
        ),
        Metric(
            "mailseal_argon2_places",
            GAUGE,
            "Largest number of jobs that may run or wait.",
            ("pool",),
            _one(POOLS),
        ),
        Metric("mailseal_sessions", GAUGE, "Sessions: users whose keys are in memory."),
        Metric(
            "mailseal_keyrings",
            GAUGE,
            "Keyrings, by their number of slots.",
            ("slots",),
            _one(SLOTS),
        ),
        Metric(
            "mailseal_keyrings_by_pairs",
            GAUGE,
            "Keyrings, by their number of key pairs.",
            ("pairs",),
            _one(PAIRS),
        ),
        Metric(
            "mailseal_keyrings_without_recovery",
            GAUGE,
            "Keyrings without a recovery method: who forgets the password loses the mail.",
        ),
        Metric("mailseal_keyrings_damaged", GAUGE, "Keyrings that cannot be read."),
        Metric(
            "mailseal_keyrings_counted_timestamp_seconds",
            GAUGE,
            "When the keyrings and the index folders were counted; 0: not yet.",
        ),
        Metric(
            "mailseal_index_folders",
            GAUGE,
            "Encrypted index folders.",
            ("state",),
            _one(("open", "locked")),
        ),
    ),
)

PHASES = ("waiting", "postponed", "sealing", "done", "unsealing")

SEALER = Layout(
    "sealer",
    (
        Metric(
            "mailseal_conversion_users",
            GAUGE,
            "Users whose existing mail is sealed, by the state of the work.  Postponed: it failed, "
            "and is tried again.",
            ("state",),
            _one(PHASES),
        ),
        Metric(
            "mailseal_conversion_mails",
            GAUGE,
            "Existing mails of these users: done, left to do, or impossible to seal.",
            ("state",),
            _one(("done", "left", "impossible")),
        ),
        Metric(
            "mailseal_conversion_counted_timestamp_seconds",
            GAUGE,
            "When these were counted; 0: not yet.",
        ),
    ),
)

LAYOUTS = (DELIVERY, AGENT, SEALER)

# About the daemons themselves; mailseal-metrics adds them.
UP = "mailseal_up"
STARTED = "mailseal_start_time_seconds"
BUILD = "mailseal_build_info"


def names() -> dict[str, Metric | None]:
    """The names of all series in a scrape, as rules and dashboards use them."""
    found: dict[str, Metric | None] = dict.fromkeys((UP, STARTED, BUILD))
    suffixes = {COUNTER: ("_total",), GAUGE: ("",), HISTOGRAM: ("_bucket", "_count", "_sum")}
    for layout in LAYOUTS:
        for metric in layout.metrics:
            found |= {f"{metric.name}{suffix}": metric for suffix in suffixes[metric.kind]}
    return found


def reply_of(code: int, enhanced: str) -> str:
    """The label of a reply."""
    kind = str(code)[:1]
    if enhanced[:1] == kind and enhanced in (*SENT, *REFUSED):
        return enhanced
    return f"{kind}.x.x" if kind in "245" else "4.x.x"
