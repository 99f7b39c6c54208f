# SPDX-License-Identifier: MIT
"""mailseal-metrics for a configuration, and what it answers, read by prometheus_client's parser."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.lab.process import Server

METRICS_UID = 60606
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Labels = Mapping[str, str]


def options(folder: str, port: int) -> dict[str, Any]:
    """Options by their names."""
    return {
        "metrics.listen": f"127.0.0.1:{port}",
        "metrics.user": METRICS_UID,
        "metrics.folder": folder,
    }


class Metrics:
    """The server, and its figures."""

    def __init__(self, hook: str, config: str, log: str, port: int) -> None:
        self.port = port
        self.server = Server("mailseal-metrics", [hook, "-c", config], log)

    def __enter__(self) -> Metrics:
        self.server.start(until=[("127.0.0.1", self.port)], timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def ask(self, method: str = "GET", path: str = "/metrics") -> tuple[int, bytes]:
        """Status and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, headers={"Accept": OPENMETRICS})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def scrape(self) -> Figures:
        """All series."""
        status, body = self.ask()
        assert status == 200
        return Figures(body.decode())

    def value(self, name: str, **labels: str) -> float | None:
        """One series at this moment; None if there is none."""
        return self.scrape().value(name, **labels)


class Figures:
    """One answer."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.series = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.series.get((name, tuple(sorted(labels.items()))))

    def all(self, name: str) -> dict[tuple[str, ...], float]:
        """All series of this name that are not 0, by the values of their labels."""
        return {
            tuple(value for _, value in labels): found
            for (known, labels), found in self.series.items()
            if known == name and found
        }
