# SPDX-License-Identifier: MIT
"""The event loop of a worker: epoll for listeners and clients, and calls posted by threads.

    accept      is called for each new connection, and registers a client with add()
    watch, pause, forget    used by clients
    post        used by threads: call a function in the loop

The loop never waits for a disk or another process.  One thread for each client was
tried in a prototype: each command then costs a switch of Python's global lock.
"""

from __future__ import annotations

import collections
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mailseal.delivery.daemon.parts import READ, Client

_HUNG_UP = select.EPOLLHUP | select.EPOLLERR


class Work(Protocol):
    """Other work of the worker, besides clients."""

    def accept(self, listener: socket.socket) -> None: ...
    def patience(self) -> float: ...
    def serve(self) -> None: ...
    @property
    def under_way(self) -> bool: ...


class Loop:
    """Serves `listeners` until told to stop, or until `orphaned` can be read."""

    def __init__(self, listeners: Sequence[socket.socket], orphaned: int) -> None:
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._orphaned = orphaned
        self._clients: dict[int, Client] = {}
        self._posted: collections.deque[tuple[Callable[..., None], tuple[Any, ...]]] = (
            collections.deque()
        )
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        # One buffer for all clients: recv() would make a large object for each read and shrink it.
        self.buffer = memoryview(bytearray(READ))
        self._woken = False
        self._stopping = False
        self._swept = 0.0
        self.quiet_since = 0.0
        """Time of the last event (time.monotonic())."""

    def __len__(self) -> int:
        return len(self._clients)

    def run(self, work: Work) -> None:
        """Serve until the worker is told to stop and the last transaction has ended."""
        signal.signal(signal.SIGTERM, self._stop_signal)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(self._orphaned, select.EPOLLIN)
        for fd in self._listeners:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        stopped = False
        while True:
            ready = self._epoll.poll(self._patience(work))
            for fd, events in ready:
                self._ready(work, fd, events)
            if ready:
                self.quiet_since = time.monotonic()
            self._do_posted()
            work.serve()
            now = time.monotonic()
            if now - self._swept > 1:
                self._swept = now
                self._sweep(now)
            if self._stopping and not stopped:
                stopped = True
                self._drain()
            if stopped and not self._clients and not work.under_way:
                return

    def _do_posted(self) -> None:
        """Run the posted calls.  No variable keeps a reference afterwards: it may be a mail."""
        while self._posted:
            call, arguments = self._posted.popleft()
            call(*arguments)

    def _patience(self, work: Work) -> float:
        """Timeout for the next event, in seconds."""
        return 0.05 if self._posted or self._stopping else work.patience()

    def _ready(self, work: Work, fd: int, events: int) -> None:
        client = self._clients.get(fd)
        if client is not None:
            if events & select.EPOLLOUT:
                client.writable()
            if events & (select.EPOLLIN | _HUNG_UP) and not client.closed:
                client.readable(bool(events & _HUNG_UP))
        elif fd in self._listeners:
            work.accept(self._listeners[fd])
        elif fd == self._wake:
            os.eventfd_read(self._wake)
            self._woken = False  # before the posted calls run: later ones wake the loop again
        elif fd == self._orphaned:
            self._epoll.unregister(fd)
            self._stopping = True

    def add(self, client: Client) -> None:
        """Register a new client, for reading."""
        self._clients[client.fd] = client
        self._epoll.register(client.fd, select.EPOLLIN)

    def _sweep(self, now: float) -> None:
        for client in list(self._clients.values()):
            if client.deadline < now and not client.busy:
                client.timed_out()

    def _stop_signal(self, _number: int, _frame: object) -> None:
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def _drain(self) -> None:
        for fd, sock in self._listeners.items():
            self._epoll.unregister(fd)
            sock.close()
        self._listeners.clear()
        for client in list(self._clients.values()):
            client.drain()

    def post(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the loop; for threads."""
        self._posted.append((call, arguments))
        # One wake-up for calls posted together: each costs a switch of the global lock.
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._wake, 1)

    def watch(self, client: Client, *, resume: bool, writing: bool) -> None:
        """Wait until the client can be read or written.

        Reading is not turned off while the client waits for a reply, because it rarely
        sends then: readable() does this if necessary, which saves two system calls
        for each mail.
        """
        reading = client.reading or resume
        if (reading, writing) != (client.reading, client.writing):
            client.reading, client.writing = reading, writing
            self._modify(client)

    def pause(self, client: Client) -> None:
        """Do not read from the client until watch(resume=True)."""
        if client.reading:
            client.reading = False
            self._modify(client)

    def _modify(self, client: Client) -> None:
        events = select.EPOLLIN if client.reading else 0
        self._epoll.modify(client.fd, events | (select.EPOLLOUT if client.writing else 0))

    def forget(self, client: Client) -> None:
        """Remove a client."""
        self._epoll.unregister(client.fd)
        del self._clients[client.fd]
