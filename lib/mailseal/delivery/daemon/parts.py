# SPDX-License-Identifier: MIT
"""What a connection is given: the loop and the deliveries, as far as it may use them, and
what all connections of a worker share."""

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
"""Bytes read at a time at most.

Larger pieces cost more: malloc() takes memory for more than 128 KB afresh from the kernel."""


class Client(Protocol):
    """What the loop knows of a connection."""

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
    """Loop, for a client."""

    buffer: memoryview

    def watch(self, client: Client, *, resume: bool, writing: bool) -> None: ...
    def pause(self, client: Client) -> None: ...
    def forget(self, client: Client) -> None: ...


class DeliveriesPart(Protocol):
    """Deliveries, for a client."""

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
    """Of one worker.  `idle_timeout` in seconds."""

    loop: LoopPart
    deliveries: DeliveriesPart
    budget: Budget
    log: DeliveryLog
    hostname: str
    limits: Limits
    idle_timeout: int
