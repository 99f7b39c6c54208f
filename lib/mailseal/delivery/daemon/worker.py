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
"""Seconds without events before secrets are made in advance.  If they were made between any two
commands, they would use three quarters of the lock's time during a burst of mail."""


class Worker:
    """Serves `listeners` until it is told to stop.  Made after fork(); one in each process."""

    def __init__(
        self,
        config: Config,
        hostname: str,
        listeners: Sequence[socket.socket],
        log: DeliveryLog,
        orphaned: int,
        settings: Mapping[str, str] | None,
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
        """Serve until it is told to stop and the last transaction has ended."""
        self._loop.run(self)

    @property
    def under_way(self) -> bool:
        """Whether a delivery or a lookup is in progress."""
        return self._deliveries.under_way > 0

    def serve(self) -> None:
        """Called in each iteration of the loop: answer mails that wait for memory."""
        self._budget.serve()

    def patience(self) -> float:
        """Timeout for the next event: none while secrets must be made."""
        secrets = self._deliveries.secrets
        if not secrets.wanting:
            return 1
        if self.under_way or time.monotonic() - self._loop.quiet_since < _QUIET:
            return _QUIET
        secrets.add_one()
        return 0

    def accept(self, listener: socket.socket) -> None:
        """Accept a client on this socket."""
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as exc:
            self._parts.log.fault(f"cannot accept a connection: {exc.strerror}")
            time.sleep(0.1)  # no free descriptors: wait for others to finish
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
        """Whether enough connections stay free for other local users."""
        if peer.uid is None:
            return True
        self._local = [client for client in self._local if not client.closed]
        mine = sum(client.peer.uid == peer.uid for client in self._local)
        return mine < max(1, self._most // 4)
