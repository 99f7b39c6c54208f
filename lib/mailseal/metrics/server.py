# SPDX-License-Identifier: MIT
"""mailseal-metrics: figures about the daemons, for Prometheus.

SYNOPSIS
    mailseal-metrics [-c CONFIG]

DESCRIPTION
    Answers GET /metrics on metrics.listen, in the format of OpenMetrics or of Prometheus, as the
    client asks.  The daemons count in files in metrics.folder, and this program reads them, so
    it sends no request to a daemon.  If it is started as root, it makes its socket and then becomes
    metrics.user permanently.  It has no access to keys or mail.  SIGTERM and SIGINT end it.

DIAGNOSTICS
    Exit status 78 for a wrong configuration, also if metrics.listen is not set or not on the
    loopback interface; 75 for a temporary failure.

LIMITS
    At most 100 connections; further ones wait.  A connection is closed if a request is not
    complete, or the response is not read, within 5 seconds.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mailseal import wsgi
from mailseal.config import Config, socket_address
from mailseal.errors import ConfigError

CONNECTIONS = 100
TIMEOUT = 5
_PATH = "/metrics"
_MAX_BODY = 1


def main(argv: list[str], environ: Mapping[str, str]) -> int:
    """Run the server; returns the exit status."""
    return wsgi.main("mailseal-metrics", "figures for Prometheus", run, argv, environ)


def run(config: Config, environ: Mapping[str, str]) -> None:
    """Start, serve, stop."""
    metrics = config.metrics
    if metrics.listen is None:
        raise ConfigError("option metrics.listen is not set: nothing is counted")
    require_local(metrics.listen)
    wsgi.require("prometheus-client", "prometheus_client")
    wsgi.require("waitress")
    log, listener = wsgi.start(config, "metrics", metrics)
    server = wsgi.make_server(
        make(config),
        listener,
        threads=1,
        connections=CONNECTIONS,
        timeout=TIMEOUT,
        max_body=_MAX_BODY,
        scheme="http",
    )
    wsgi.serve(server, str(metrics.listen), log, environ)


def require_local(listen: str) -> None:
    """Raise ConfigError unless only this host can connect."""
    address = socket_address(listen)
    if isinstance(address, str):
        return
    try:
        local = ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ConfigError(
            f"option metrics.listen: {listen} is not an address of the loopback interface",
            hint="use 127.0.0.1, and docs/monitoring.md for a Prometheus on another host",
        )


def make(config: Config) -> Callable[[Mapping[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """The WSGI application: prometheus_client's, for one path and one method."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import make_wsgi_app

    from mailseal.metrics.exposition import Daemons

    registry = CollectorRegistry()
    registry.register(Daemons(config.metrics.folder, config.metrics.daemons))
    metrics = make_wsgi_app(registry)

    def app(environ: Mapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        status = ""
        if environ["PATH_INFO"] != _PATH:
            status = "404 Not Found"
        elif environ["REQUEST_METHOD"] != "GET":
            status = "405 Method Not Allowed"
        if status:
            start(status, [("Content-Type", "text/plain"), ("Allow", "GET")])
            return [f"{status}: GET {_PATH}\n".encode()]
        # Without the query: prometheus_client would look up each name[] in it.
        found: Iterable[bytes] = metrics({**environ, "QUERY_STRING": ""}, start)
        return found

    return app
