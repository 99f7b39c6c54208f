# SPDX-License-Identifier: MIT
"""A server for a WSGI application with waitress, for a client that may be slow or hostile.

CONTRACT
    The number of connections is limited; further ones wait.  A connection is closed if a request is
    not complete, or a response is not read, within `timeout` seconds, also if bytes arrive slowly.

FAILURES
    ConfigError with the name of the option: the address cannot be used, or a module is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mailseal import config as configuration
from mailseal import sockets
from mailseal.config import Config, socket_address
from mailseal.daemon import drop_root, group_id, notify, open_log, user_ids
from mailseal.errors import EX_OK, ConfigError, MailsealError, print_error
from mailseal.logs import INFO, Log

_BACKLOG = 128
_MAX_HEADER = 16384


def require(package: str, module: str | None = None) -> None:
    """Raise ConfigError, with the command that installs it, if a Python module is missing."""
    if importlib.util.find_spec(module or package) is None:
        raise ConfigError(
            f"the Python module {module or package} is missing",
            hint=f"apt-get install python3-{package}",
        )


class Options(Protocol):
    """The options of a server, for example config.web.  Group and mode are for a unix socket."""

    @property
    def listen(self) -> str | None: ...
    @property
    def user(self) -> str: ...
    @property
    def socket_group(self) -> str: ...
    @property
    def socket_mode(self) -> int: ...


def main(
    program: str,
    description: str,
    run: Callable[[Config, Mapping[str, str]], None],
    argv: list[str],
    environ: Mapping[str, str],
) -> int:
    """Run a server with the configuration that `argv` names; returns the exit status."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("-c", "--config", default=configuration.DEFAULT_PATH, metavar="FILE")
    try:
        run(configuration.load(parser.parse_args(argv).config), environ)
    except MailsealError as exc:
        print_error(program, exc)
        return exc.exit_status
    return EX_OK


def start(config: Config, section: str, options: Options) -> tuple[Log, socket.socket]:
    """Open the log and the socket of mailseal-SECTION; then become its user permanently."""
    uid, gid = user_ids(options.user, f"{section}.user")
    os.umask(0o077)
    log = open_log(config, f"mailseal-{section}", (uid, gid))
    listener = _listen(section, options)
    if os.geteuid() == 0 and uid != 0:
        drop_root(uid, gid)
    return log, listener


def _listen(section: str, options: Options) -> socket.socket:
    name = str(options.listen)
    address = socket_address(name)
    if isinstance(address, str):
        gid = group_id(options.socket_group, f"{section}.socket_group")
        return sockets.listen(address, mode=options.socket_mode, group=gid, backlog=_BACKLOG)
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
    """A waitress server, for serve().  `max_body` in bytes, `timeout` in seconds."""
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


def serve(server: Any, address: str, log: Log, environ: Mapping[str, str]) -> None:
    """Tell systemd, and serve until SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    log.write(INFO, f"listening on {address}, uid={os.geteuid()}")
    notify(environ.get("NOTIFY_SOCKET"), "READY=1")
    try:
        server.run()
    except SystemExit:
        log.write(INFO, "stopped")
    finally:
        server.close()


def _stop(_number: int, _frame: object) -> None:
    raise SystemExit
