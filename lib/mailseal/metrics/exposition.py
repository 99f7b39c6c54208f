# SPDX-License-Identifier: MIT
"""The counters of all daemons, as prometheus_client wants them.  Each scrape reads the files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from mailseal import __version__
from mailseal.metrics.counters import Counts, read
from mailseal.metrics.table import BUILD, COUNTER, HISTOGRAM, LAYOUTS, STARTED, UP, Layout, Metric


class Daemons(Collector):
    """A collector for a CollectorRegistry.  `expected`: daemons that must run on this host."""

    def __init__(self, folder: str, expected: Sequence[str]) -> None:
        self._folder = folder
        self._expected = expected

    def describe(self) -> list[Any]:
        """Nothing: without this, the registry would collect once when it is made."""
        return []

    def collect(self) -> Iterator[Any]:
        """The metrics of the daemons themselves, then what each of them has counted."""
        build = InfoMetricFamily(BUILD.removesuffix("_info"), "The version of mailseal.")
        build.add_metric([], {"version": __version__})
        yield build
        up = GaugeMetricFamily(UP, "Whether the daemon runs.", labels=["daemon"])
        started = GaugeMetricFamily(STARTED, "When the daemon started.", labels=["daemon"])
        found: list[tuple[Layout, Counts]] = []
        for layout in LAYOUTS:
            counts = read(self._folder, layout)
            if counts is None:
                if layout.daemon in self._expected:
                    up.add_metric([layout.daemon], 0)
                continue
            up.add_metric([layout.daemon], 1 if counts.running else 0)
            if counts.cells:
                started.add_metric([layout.daemon], counts.started)
                found.append((layout, counts))
        yield up
        yield started
        for layout, counts in found:
            # The gauges of a daemon that has ended are not true any more.
            yield from _families(layout, counts.cells, gauges=counts.running)


def _families(layout: Layout, cells: Sequence[float], *, gauges: bool) -> Iterator[Any]:
    families: dict[str, Any] = {}
    for metric, values, at in layout:
        if metric.kind in (COUNTER, HISTOGRAM) or gauges:
            family = families.setdefault(metric.name, _family(metric))
            _add(family, metric, values, cells[at : at + metric.width])
    yield from families.values()


def _family(metric: Metric) -> Any:
    made = {COUNTER: CounterMetricFamily, HISTOGRAM: HistogramMetricFamily}
    return made.get(metric.kind, GaugeMetricFamily)(metric.name, metric.help, labels=metric.labels)


def _add(family: Any, metric: Metric, values: Sequence[str], cells: Sequence[float]) -> None:
    if metric.kind != HISTOGRAM:
        family.add_metric(values, cells[0])
        return
    bounds = [*(str(bound) for bound in metric.bounds), "+Inf"]
    below = itertools.accumulate(cells[:-1])
    family.add_metric(values, buckets=list(zip(bounds, below, strict=True)), sum_value=cells[-1])
