# SPDX-License-Identifier: MIT
"""Serves a WSGI application with waitress, for a client that may be slow or hostile.

CONTRACT
    The number of connections is limited; further ones wait.  A connection is closed if a request is
    not complete, or a response is not read, within `timeout` seconds, also if bytes arrive slowly.

FAILURES
    ConfigError with the name of the option: the address cannot be used, or a module is missing.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
import time
from typing import Any

from mailseal import sockets
from mailseal.config import socket_address
from mailseal.daemon import group_id
from mailseal.errors import ConfigError

_BACKLOG = 128
_MAX_HEADER = 16384


def require(package: str, module: str | None = None) -> None:
    """Raise ConfigError, with the command that installs it, if a Python module is missing."""
    if importlib.util.find_spec(module or package) is None:
        raise ConfigError(
            f"the Python module {module or package} is missing",
            hint=f"apt-get install python3-{package}",
        )


def listen(section: str, name: str, group: str, mode: int) -> socket.socket:
    """The socket of an option SECTION.listen.  `group` and `mode` are for a unix socket."""
    address = socket_address(name)
    if isinstance(address, str):
        gid = group_id(group, f"{section}.socket_group")
        return sockets.listen(address, mode=mode, group=gid, backlog=_BACKLOG)
    made = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError as exc:
        made.close()
        raise ConfigError(f"option {section}.listen: {name}: {exc.strerror}") from None
    return made


def make_server(
    app: Any,
    listener: socket.socket,
    *,
    threads: int,
    connections: int,
    timeout: int,
    max_body: int,
    scheme: str,
) -> Any:
    """A waitress server; serve() runs it.  `max_body` in bytes, `timeout` in seconds."""
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
        threads=threads,
        connection_limit=connections,
        channel_timeout=timeout,
        cleanup_interval=min(5, timeout),
        max_request_body_size=max_body,
        max_request_header_size=_MAX_HEADER,
        url_scheme=scheme,
        ident=None,
        clear_untrusted_proxy_headers=True,
        expose_tracebacks=False,
    )
    server.channel_class = Channel
    return server


def stop_on_signals() -> None:
    """SIGTERM and SIGINT raise SystemExit."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


def _stop(_number: int, _frame: object) -> None:
    raise SystemExit
