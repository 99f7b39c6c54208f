# SPDX-License-Identifier: MIT
"""A worker process: one event loop for all its clients (loop.py), threads for slow operations
(deliveries.py), and a memory limit (budget.py).

When the worker is idle, the loop makes message secrets in advance.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping, Sequence

from mailseal.config import Config
from mailseal.delivery.daemon import listen
from mailseal.delivery.daemon.budget import Budget
from mailseal.delivery.daemon.connection import Connection
from mailseal.delivery.daemon.deliveries import Deliveries
from mailseal.delivery.daemon.loop import Loop
from mailseal.delivery.daemon.parts import READ, Parts
from mailseal.delivery.daemon.peer import Peer, peer_of
from mailseal.delivery.lmtp.protocol import Limits
from mailseal.delivery.log import DeliveryLog

_QUIET = 0.05
"""Seconds without any event before secrets are made ahead.  Made in every gap between two
commands, they took three quarters of the lock's time from the mails of a burst."""


class Worker:
    """Serves `listeners` until told to stop.  Made after fork(); one a process."""

    def __init__(
        self,
        config: Config,
        hostname: str,
        listeners: Sequence[socket.socket],
        log: DeliveryLog,
        orphaned: int,
        settings: Mapping[str, str],
    ) -> None:
        self._loop = Loop(listeners, orphaned)
        self._deliveries = Deliveries(config, hostname, settings, self._loop.post)
        self._most = config.delivery.connection_limit
        self._trusted = listen.trusted_uids(config)
        self._local: list[Connection] = []
        self._budget = Budget(
            config.delivery.in_flight_limit // config.delivery.workers,
            config.delivery.message_limit + 2 * READ,
            self._most,
            config.delivery.in_flight_wait,
        )
        self._parts = Parts(
            self._loop,
            self._deliveries,
            self._budget,
            log,
            hostname,
            Limits(config.delivery.message_limit, config.delivery.recipient_limit),
            config.delivery.idle_timeout,
        )

    def run(self) -> None:
        """Serve; returns when a stop was asked for and the last transaction is done."""
        self._loop.run(self)

    @property
    def under_way(self) -> bool:
        """Whether a delivery or a look-up is."""
        return self._deliveries.under_way > 0

    def serve(self) -> None:
        """In each turn of the loop: who waits for memory."""
        self._budget.serve()

    def patience(self) -> float:
        """How long to wait for events: not at all while secrets are to be made."""
        secrets = self._deliveries.secrets
        if not secrets.wanting:
            return 1
        if self.under_way or time.monotonic() - self._loop.quiet_since < _QUIET:
            return _QUIET
        secrets.add_one()
        return 0

    def accept(self, listener: socket.socket) -> None:
        """A client has come to this socket."""
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as exc:
            self._parts.log.fault(f"cannot accept a connection: {exc.strerror}")
            time.sleep(0.1)  # out of descriptors: let others finish
            return
        peer = peer_of(sock, address, self._trusted)
        if len(self._loop) >= self._most or not self._leaves_room(peer):
            sock.settimeout(0)
            with contextlib.suppress(OSError):
                sock.send(f"421 4.3.2 {self._parts.hostname} too many connections\r\n".encode())
            sock.close()
            return
        sock.setblocking(False)
        if listener.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Connection(self._parts, sock, peer)
        if peer.uid is not None:
            self._local.append(client)
        self._loop.add(client)
        client.advance()

    def _leaves_room(self, peer: Peer) -> bool:
        """Whether a local user who is not Postfix leaves connections for other local users."""
        if peer.uid is None:
            return True
        self._local = [client for client in self._local if not client.closed]
        mine = sum(client.peer.uid == peer.uid for client in self._local)
        return mine < max(1, self._most // 4)
