# SPDX-License-Identifier: MIT
"""A worker process: one loop for all its clients, threads for what must wait.

    loop        epoll: accept, read, parse, route from memory, reply
    commit      threads that seal and store in groups (commit.py)
    lookups     threads that ask the user database
    relays      threads that hand mail to Dovecot

The loop never waits for a disk or another process.  One thread a client
was tried in a throw-away filter: every command then costs a hand-over of
Python's global lock.  When there is nothing to do the loop makes message secrets ahead.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailseal.config import Config
from mailseal.delivery import outcome
from mailseal.delivery.commit import Committer, SealJob, make_store
from mailseal.delivery.daemon import listen
from mailseal.delivery.daemon.budget import Budget
from mailseal.delivery.daemon.connection import READ, Connection
from mailseal.delivery.daemon.peer import peer_of
from mailseal.delivery.dovecot import relay
from mailseal.delivery.lmtp.protocol import Limits
from mailseal.delivery.lmtp.syntax import Address
from mailseal.delivery.log import DeliveryLog
from mailseal.delivery.message import Envelope, Message
from mailseal.delivery.outcome import Outcome
from mailseal.delivery.relayed import relay_one
from mailseal.delivery.route import Route, Router
from mailseal.errors import MailsealError

_LOOKUP_THREADS = 8
_RELAY_THREADS = 32
_QUIET = 0.05
"""Seconds without any event before secrets are made ahead.  Made in every gap between two
commands, they took three quarters of the lock's time from the mails of a burst."""

_HUNG_UP = select.EPOLLHUP | select.EPOLLERR


class _Delivery:
    """One mail for several recipients, each with its own outcome."""

    __slots__ = ("done", "open", "outcomes")

    def __init__(self, count: int, done: Callable[[list[Outcome]], None]) -> None:
        self.outcomes: list[Outcome | None] = [None] * count
        self.open = count
        self.done = done

    def settle(self, numbers: Sequence[int], result: Outcome) -> None:
        for number in numbers:
            self.outcomes[number] = result
            self.open -= 1
        if self.open == 0:
            self.done([o for o in self.outcomes if o is not None])


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
        self.log = log
        self.hostname = hostname
        self.router = Router(config, settings)
        self._trusted = listen.trusted_uids(config)
        self._most = config.delivery.connection_limit
        self.budget = Budget(
            config.delivery.in_flight_limit // config.delivery.workers,
            config.delivery.message_limit + 2 * READ,
            self._most,
            config.delivery.in_flight_wait,
        )
        self.idle_timeout = config.delivery.idle_timeout
        self._limits = Limits(config.delivery.message_limit, config.delivery.recipient_limit)
        self._relay = relay.dovecot(config, hostname)
        store = make_store(config, self.router, config.delivery.secrets_ahead)
        self._secrets = store.secrets
        self._committer = Committer(store, self._group_done, config.delivery.commit_threads)
        self._lookups = concurrent.futures.ThreadPoolExecutor(_LOOKUP_THREADS, "lookup")
        self._relays = concurrent.futures.ThreadPoolExecutor(_RELAY_THREADS, "relay")
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._orphaned = orphaned
        self._clients: dict[int, Connection] = {}
        self._settling: dict[int, tuple[_Delivery, list[int]]] = {}
        self._jobs = 0
        self._posted: collections.deque[tuple[Callable[..., None], tuple[Any, ...]]] = (
            collections.deque()
        )
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        # One for all clients: recv() would make a large object for each read and shrink it.
        self.buffer = memoryview(bytearray(READ))
        self._stopping = False
        self._swept = 0.0
        self._quiet_since = 0.0

    # --- the loop -----------------------------------------------------------

    def run(self) -> None:
        """Serve; returns when a stop was asked for and the last transaction is done."""
        signal.signal(signal.SIGTERM, self._stop_signal)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(self._orphaned, select.EPOLLIN)
        for fd in self._listeners:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        stopped = False
        while True:
            ready = self._epoll.poll(self._patience())
            for fd, events in ready:
                self._ready(fd, events)
            if ready:
                self._quiet_since = time.monotonic()
            self._do_posted()
            self.budget.serve()
            now = time.monotonic()
            if now - self._swept > 1:
                self._swept = now
                self._sweep(now)
            if self._stopping and not stopped:
                stopped = True
                self._drain()
            if stopped and not self._clients and not self._jobs:
                return

    def _do_posted(self) -> None:
        """What threads left to be done.  No name here outlives it: it may hold a mail."""
        while self._posted:
            call, arguments = self._posted.popleft()
            call(*arguments)

    def _patience(self) -> float:
        """How long to wait for events: not at all while secrets are to be made."""
        if self._posted or self._stopping:
            return 0.05
        if not self._secrets.wanting:
            return 1
        if self._jobs or time.monotonic() - self._quiet_since < _QUIET:
            return _QUIET
        self._secrets.add_one()
        return 0

    def _ready(self, fd: int, events: int) -> None:
        client = self._clients.get(fd)
        if client is not None:
            if events & select.EPOLLOUT:
                client.writable()
            if events & (select.EPOLLIN | _HUNG_UP) and not client.closed:
                client.readable(bool(events & _HUNG_UP))
        elif fd in self._listeners:
            self._accept(self._listeners[fd])
        elif fd == self._wake:
            os.eventfd_read(self._wake)
        elif fd == self._orphaned:
            self._epoll.unregister(fd)
            self._stopping = True

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as exc:
            self.log.fault(f"cannot accept a connection: {exc.strerror}")
            time.sleep(0.1)  # out of descriptors: let others finish
            return
        if len(self._clients) >= self._most:
            sock.settimeout(0)
            with contextlib.suppress(OSError):
                sock.send(f"421 4.3.2 {self.hostname} too many connections\r\n".encode())
            sock.close()
            return
        sock.setblocking(False)
        if listener.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Connection(self, sock, peer_of(sock, address, self._trusted), self._limits)
        self._clients[client.fd] = client
        self._epoll.register(client.fd, select.EPOLLIN)
        client.advance()

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

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have the loop do something; for the threads."""
        self._posted.append((call, arguments))
        os.eventfd_write(self._wake, 1)

    # --- what connections ask for -------------------------------------------

    def watch(self, client: Connection, *, resume: bool, writing: bool) -> None:
        """Wait for what the client needs.

        Reading is not switched off for a client that is being served (it
        rarely sends meanwhile): readable() does that when it must, which
        saves two system calls a mail.
        """
        reading = client.reading or resume
        if (reading, writing) != (client.reading, client.writing):
            client.reading, client.writing = reading, writing
            self._modify(client)

    def pause(self, client: Connection) -> None:
        """Leave the client's bytes in the socket until watch(resume=True)."""
        if client.reading:
            client.reading = False
            self._modify(client)

    def _modify(self, client: Connection) -> None:
        events = select.EPOLLIN if client.reading else 0
        self._epoll.modify(client.fd, events | (select.EPOLLOUT if client.writing else 0))

    def forget(self, client: Connection) -> None:
        """The client is gone."""
        self._epoll.unregister(client.fd)
        del self._clients[client.fd]

    def route(self, address: Address, size: int) -> Route | Outcome:
        """Decide now; an Outcome is why not."""
        try:
            return self.router.route(address, size)
        except Exception as exc:
            return _routed_outcome(exc, address)

    def route_later(
        self, address: Address, size: int, answer: Callable[[Route | Outcome], None]
    ) -> None:
        """Decide in a thread; `answer` is called in the loop."""
        self._jobs += 1

        def ask() -> None:
            result = self.route(address, size)
            self._post(self._answered, answer, result)

        self._lookups.submit(ask)

    def _answered(self, answer: Callable[[Route | Outcome], None], result: Route | Outcome) -> None:
        self._jobs -= 1
        answer(result)

    def deliver(
        self,
        envelope: Envelope,
        message: Message,
        routes: Sequence[Route],
        done: Callable[[list[Outcome]], None],
    ) -> None:
        """Bring one mail to all its recipients; `done` gets their outcomes, in order."""
        delivery = _Delivery(len(routes), done)
        same: dict[tuple[str, str], list[int]] = {}
        for number, route in enumerate(routes):
            same.setdefault((route.user, route.detail), []).append(number)
        for numbers in same.values():
            # A recipient given twice gets the mail once, and the reply twice.
            route = routes[numbers[0]]
            self._jobs += 1
            if route.action == "seal":
                job = SealJob(route, envelope, message)
                self._settling[id(job)] = delivery, numbers
                self._committer.submit(job)
            else:
                self._relays.submit(self._relay_one, route, envelope, message, delivery, numbers)

    def _group_done(self, group: list[SealJob]) -> None:
        self._post(self._settle_group, group)

    def _settle_group(self, group: list[SealJob]) -> None:
        for job in group:
            delivery, numbers = self._settling.pop(id(job))
            result = job.result
            if result is None:
                result = outcome.fault(job.route.address, RuntimeError())
            self._settle(delivery, numbers, result)

    def _settle(self, delivery: _Delivery, numbers: list[int], result: Outcome) -> None:
        self._jobs -= 1
        delivery.settle(numbers, result)

    def _relay_one(
        self,
        route: Route,
        envelope: Envelope,
        message: Message,
        delivery: _Delivery,
        numbers: list[int],
    ) -> None:
        try:
            result = relay_one(route, envelope, message, self.router, self._relay)
        except Exception as exc:
            result = outcome.fault(route.address, exc)
        self._post(self._settle, delivery, numbers, result)


def _routed_outcome(error: Exception, address: Address) -> Outcome:
    """The answer to a RCPT that could not be routed."""
    if isinstance(error, MailsealError):
        return outcome.failed(error, address)
    return outcome.fault(address, error)
