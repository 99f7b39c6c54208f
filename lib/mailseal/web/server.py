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

import argparse
import os
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any

from mailseal import config as configuration
from mailseal import sockets
from mailseal.config import Config, socket_address
from mailseal.daemon import drop_root, group_id, notify, open_log, user_ids
from mailseal.errors import EX_OK, ConfigError, MailsealError, print_error
from mailseal.login import hardening
from mailseal.logs import INFO
from mailseal.web.app import MAX_BODY, make

_THREADS = 8
_BACKLOG = 128
_MAX_HEADER = 16384


def main(argv: list[str], environ: Mapping[str, str]) -> int:
    """Run the server; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mailseal-web", description="mailseal's page for users")
    parser.add_argument("-c", "--config", default=configuration.DEFAULT_PATH, metavar="FILE")
    try:
        run(configuration.load(parser.parse_args(argv).config), environ)
    except MailsealError as exc:
        print_error("mailseal-web", exc)
        return exc.exit_status
    return EX_OK


def run(config: Config, environ: Mapping[str, str]) -> None:
    """Start, serve, stop."""
    web = config.web
    if web.listen is None:
        raise ConfigError("option web.listen is not set: there is no page for users")
    if not web.path.startswith("/") or any(c in web.path for c in "<>?#% "):
        raise ConfigError(f"option web.path: {web.path} is not a path such as /mailseal")
    for needed in ("flask", "waitress"):
        _require(needed)
    uid, gid = user_ids(web.user, "web.user")
    os.umask(0o077)
    log = open_log(config, "mailseal-web", (uid, gid))
    listener = _listen(config)
    if os.geteuid() == 0 and uid != 0:
        drop_root(uid, gid)
    # The command may be sudo; then only the unit decides.
    hardening.forbid_dumps(new_privileges=bool(web.password_command))
    server = _server(make(config, log), listener, config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    log.write(INFO, f"listening on {web.listen}, uid={os.geteuid()}")
    notify(environ.get("NOTIFY_SOCKET"), "READY=1")
    try:
        server.run()
    except SystemExit:
        log.write(INFO, "stopped")
    finally:
        server.close()


def _require(name: str) -> None:
    import importlib.util

    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"the Python module {name} is missing", hint=f"apt-get install python3-{name}"
        )


def _listen(config: Config) -> socket.socket:
    address = socket_address(str(config.web.listen))
    if isinstance(address, str):
        group = group_id(config.web.socket_group, "web.socket_group")
        mode = config.web.socket_mode
        return sockets.listen(address, mode=mode, group=group, backlog=_BACKLOG)
    made = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError as exc:
        made.close()
        raise ConfigError(f"option web.listen: {config.web.listen}: {exc.strerror}") from None
    return made


def _server(app: Any, listener: socket.socket, config: Config) -> Any:
    from waitress.channel import HTTPChannel
    from waitress.server import create_server

    class Channel(HTTPChannel):  # type: ignore[misc]
        """Limits the total time of a request, also if its bytes arrive slowly."""

        begun = 0.0

        def handle_read(self) -> None:
            before = self.request
            super().handle_read()
            if self.request is None:
                return
            if self.request is not before:
                self.begun = time.time()
            self.last_activity = self.begun

    server = create_server(
        app,
        sockets=[listener],
        threads=_THREADS,
        connection_limit=config.web.connections,
        channel_timeout=config.web.request_timeout,
        cleanup_interval=min(5, config.web.request_timeout),
        max_request_body_size=MAX_BODY,
        max_request_header_size=_MAX_HEADER,
        url_scheme="https",
        ident=None,
        clear_untrusted_proxy_headers=True,
        expose_tracebacks=False,
    )
    server.channel_class = Channel
    return server


def _stop(_number: int, _frame: object) -> None:
    raise SystemExit
