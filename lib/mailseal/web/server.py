# SPDX-License-Identifier: MIT
"""mailseal-web: a web page for users.

SYNOPSIS
    mailseal-web [-c CONFIG]

DESCRIPTION
    If it is started as root, it makes its socket and then becomes web.user permanently.  It serves
    plain HTTP on web.listen, for a web server in front of it, and sends requests to the key agent.
    It has no access to keys or mail.  Sessions are in memory.  SIGTERM and SIGINT end it.

DIAGNOSTICS
    Exit status 78 for a wrong configuration, also if web.listen is not set; 75 for a temporary
    failure.

LIMITS
    A request has at most 16 KB and must be complete within web.request_timeout; otherwise the
    connection is closed.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailseal import wsgi
from mailseal.config import Config
from mailseal.errors import ConfigError
from mailseal.login import hardening
from mailseal.web.app import MAX_BODY, make

_THREADS = 8


def main(argv: list[str], environ: Mapping[str, str]) -> int:
    """Run the server; returns the exit status."""
    return wsgi.main("mailseal-web", "mailseal's page for users", run, argv, environ)


def run(config: Config, environ: Mapping[str, str]) -> None:
    """Start, serve, stop."""
    web = config.web
    if web.listen is None:
        raise ConfigError("option web.listen is not set: there is no page for users")
    if not web.path.startswith("/") or any(c in web.path for c in "<>?#% "):
        raise ConfigError(f"option web.path: {web.path} is not a path such as /mailseal")
    for needed in ("flask", "waitress"):
        wsgi.require(needed)
    log, listener = wsgi.start(config, "web", web)
    # The command may be sudo; then only the unit decides.
    hardening.forbid_dumps(new_privileges=bool(web.password_command))
    server = wsgi.make_server(
        make(config, log),
        listener,
        threads=_THREADS,
        connections=web.connections,
        timeout=web.request_timeout,
        max_body=MAX_BODY,
        scheme="https",
    )
    wsgi.serve(server, str(web.listen), log, environ)
