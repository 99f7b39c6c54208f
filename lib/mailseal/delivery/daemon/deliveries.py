# SPDX-License-Identifier: MIT
"""The deliveries of a worker: routes recipients, delivers mail, reports the outcome.

    writers     threads that seal and store mails in groups (group.py)
    lookups     threads that ask the user database
    relays      threads that relay mail to Dovecot

CONTRACT
    Methods and callbacks run in the event loop; threads report their results with
    `post`.  Each request gets exactly one result.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailseal.config import Config
from mailseal.delivery.deliver import relay_one, route_one
from mailseal.delivery.dovecot import relay
from mailseal.delivery.group import SealJob, Writers, make_store
from mailseal.delivery.lmtp.syntax import Address
from mailseal.delivery.message import Envelope, Message
from mailseal.delivery.outcome import Outcome
from mailseal.delivery.route import MustWait, Route, Router

_LOOKUP_THREADS = 8
_RELAY_THREADS = 32


class _Delivery:
    """One mail for several recipients, each with its own outcome."""

    __slots__ = ("done", "open", "outcomes")

    def __init__(self, count: int, done: Callable[[list[Outcome]], None]) -> None:
        self.outcomes: list[Outcome | None] = [None] * count
        self.open = count
        self.done = done

    def settle(self, numbers: Sequence[int], result: Outcome) -> None:
        """Set the outcome of these recipients.  After the last one, `done` gets all."""
        for number in numbers:
            self.outcomes[number] = result
            self.open -= 1
        if self.open == 0:
            self.done([o for o in self.outcomes if o is not None])


class Deliveries:
    """`post(call, *arguments)` calls a function in the event loop; threads use it."""

    def __init__(
        self,
        config: Config,
        hostname: str,
        settings: Mapping[str, str] | None,
        post: Callable[..., None],
    ) -> None:
        self.under_way = 0
        """Number of requests without an answer."""
        self._post = post
        self._router = Router(config, settings)
        self._relay = relay.dovecot(config, hostname)
        store = make_store(config, self._router, config.delivery.secrets_ahead)
        self.secrets = store.secrets
        self._writers = Writers(store, config.delivery.commit_threads)
        self._lookups = concurrent.futures.ThreadPoolExecutor(_LOOKUP_THREADS, "lookup")
        self._relays = concurrent.futures.ThreadPoolExecutor(_RELAY_THREADS, "relay")

    def route(
        self, address: Address, size: int, answer: Callable[[Route | Outcome], None]
    ) -> Route | Outcome | None:
        """The route of a recipient's mail, or an Outcome if there is none.

        None if a lookup is needed first; only then `answer` is called later.
        """
        with contextlib.suppress(MustWait):
            return route_one(self._router, address, size, may_wait=False)
        self.under_way += 1

        def ask() -> None:
            self._post(self._answer, answer, route_one(self._router, address, size))

        self._lookups.submit(ask)
        return None

    def deliver(
        self,
        envelope: Envelope,
        message: Message,
        routes: Sequence[Route],
        done: Callable[[list[Outcome]], None],
    ) -> None:
        """Deliver one mail to all its recipients; `done` gets their outcomes, in order."""
        delivery = _Delivery(len(routes), done)
        same: dict[tuple[str, str], list[int]] = {}
        for number, route in enumerate(routes):
            same.setdefault((route.user, route.detail), []).append(number)
        for numbers in same.values():
            # If a recipient is given twice, the mail is stored once, and there are two replies.
            self._deliver_one(routes[numbers[0]], envelope, message, delivery, numbers)

    def _deliver_one(
        self,
        route: Route,
        envelope: Envelope,
        message: Message,
        delivery: _Delivery,
        numbers: list[int],
    ) -> None:
        self.under_way += 1

        def settled(result: Outcome) -> None:
            self._post(self._answer, delivery.settle, numbers, result)

        if route.action == "seal":
            self._writers.submit(SealJob(route, envelope, message, settled))
        else:
            self._relays.submit(
                lambda: settled(relay_one(route, envelope, message, self._router, self._relay))
            )

    def _answer(self, answer: Callable[..., None], *arguments: Any) -> None:
        self.under_way -= 1
        answer(*arguments)
