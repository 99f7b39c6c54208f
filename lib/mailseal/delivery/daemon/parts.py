# SPDX-License-Identifier: MIT
"""The objects that a connection uses: interfaces of the loop and the deliveries, and the parts that
all connections of a worker share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from mailseal.delivery.daemon.budget import Budget
from mailseal.delivery.lmtp.protocol import Limits
from mailseal.delivery.lmtp.syntax import Address
from mailseal.delivery.log import DeliveryLog
from mailseal.delivery.message import Envelope, Message
from mailseal.delivery.outcome import Outcome
from mailseal.delivery.route import Route

READ = 64 * 1024
"""Largest number of bytes in one read.

Larger pieces cost more: over 128 KB, malloc() gets new memory from the kernel each time."""


class Client(Protocol):
    """A connection, as the loop uses it."""

    fd: int
    reading: bool
    writing: bool
    closed: bool
    deadline: float

    @property
    def busy(self) -> bool: ...
    def readable(self, hung_up: bool) -> None: ...
    def writable(self) -> None: ...
    def timed_out(self) -> None: ...
    def drain(self) -> None: ...


class LoopPart(Protocol):
    """The loop, as a connection uses it."""

    buffer: memoryview

    def watch(self, client: Client, *, resume: bool, writing: bool) -> None: ...
    def pause(self, client: Client) -> None: ...
    def forget(self, client: Client) -> None: ...


class DeliveriesPart(Protocol):
    """The deliveries, as a connection uses them."""

    def route(
        self, address: Address, size: int, answer: Callable[[Route | Outcome], None]
    ) -> Route | Outcome | None: ...

    def deliver(
        self,
        envelope: Envelope,
        message: Message,
        routes: Sequence[Route],
        done: Callable[[list[Outcome]], None],
    ) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """The shared parts of one worker.  `idle_timeout` in seconds."""

    loop: LoopPart
    deliveries: DeliveriesPart
    budget: Budget
    log: DeliveryLog
    hostname: str
    limits: Limits
    idle_timeout: int
