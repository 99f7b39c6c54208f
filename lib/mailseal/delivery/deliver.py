# SPDX-License-Identifier: MIT
"""Delivery to one recipient, used by the daemon and by mailseal-deliver without a daemon.

Functions here do not raise, except MustWait: errors are outcomes.
"""

from __future__ import annotations

import time
from functools import partial

from mailseal.delivery import outcome
from mailseal.delivery.dovecot.relay import Relay
from mailseal.delivery.lmtp.syntax import Address
from mailseal.delivery.log import DeliveryLog
from mailseal.delivery.message import Envelope, Message
from mailseal.delivery.outcome import Outcome
from mailseal.delivery.route import MustWait, Route, Router
from mailseal.errors import TemporaryError


def route_one(
    router: Router, address: Address, size: int, *, may_wait: bool = True
) -> Route | Outcome:
    """The route of the recipient's mail, or an Outcome if there is none."""
    try:
        return router.route(address, size, may_wait=may_wait)
    except MustWait:
        raise
    except Exception as exc:
        return outcome.of(exc, address)


def relay_one(
    route: Route, envelope: Envelope, message: Message, router: Router, relay: Relay
) -> Outcome:
    """Relay the mail to Dovecot, which seals it, or stores it in clear if not enrolled."""
    try:
        still = None
        if route.key is None:
            still = partial(_require_no_key, router, route.user)
            still()
        reply = relay.deliver(envelope, route.address, message, still)
    except Exception as exc:
        return outcome.of(exc, route.address)
    action, key_id = ("clear", None) if route.key is None else ("relayed", route.key.key_id)
    return Outcome(reply, action, key_id, f"{route.why}; {reply.text}")


def _require_no_key(router: Router, user: str) -> None:
    """Mail in clear is not stored if it is not certain any more that the user has no key."""
    if router.key_of(user) is not None:
        raise TemporaryError(f"{user} was enrolled while the mail was received")


def log_one(
    log: DeliveryLog,
    queue_id: str,
    address: Address,
    envelope: Envelope,
    message: Message,
    done: Outcome,
) -> None:
    """Log the outcome of one recipient."""
    log.recipient(
        queue_id,
        str(address),
        action=done.action,
        key_id=done.key_id,
        size=message.size,
        delay=time.time() - envelope.began,
        reply=done.reply,
        detail=done.detail,
        uid=envelope.uid,
    )
