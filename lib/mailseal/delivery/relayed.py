# SPDX-License-Identifier: MIT
"""One recipient's mail through Dovecot: sealed by its mail_crypt, or in clear if not enrolled."""

from __future__ import annotations

from mailseal.delivery import outcome
from mailseal.delivery.dovecot.relay import Relay
from mailseal.delivery.message import Envelope, Message
from mailseal.delivery.outcome import Outcome
from mailseal.delivery.route import Route, Router
from mailseal.errors import MailsealError, TemporaryError


def relay_one(
    route: Route, envelope: Envelope, message: Message, router: Router, relay: Relay
) -> Outcome:
    """Hand the mail over.  Never raises for expected failures."""
    action = "clear" if route.key is None else "relayed"
    try:
        if route.key is None and router.key_of(route.user) is not None:
            raise TemporaryError(f"{route.user} was enrolled while the mail came in")
    except MailsealError as error:
        return outcome.failed(error, route.address)
    reply = relay.deliver(envelope, route.address, message)
    key_id = None if route.key is None else route.key.key_id
    return Outcome(reply, action, key_id, f"{route.why}; {reply.text}")
