# SPDX-License-Identifier: MIT
"""mailseal-deliver without a daemon: routes and stores the mail in this process.

It must be started as delivery.user or as root; root then becomes that user.
"""

from __future__ import annotations

import contextlib

from mailseal import config as configuration
from mailseal.config import Config
from mailseal.daemon import open_log, user_ids
from mailseal.delivery.daemon import listen
from mailseal.delivery.deliver import log_one, relay_one, route_one
from mailseal.delivery.dovecot import relay, settings
from mailseal.delivery.group import SealJob, make_store, seal_group
from mailseal.delivery.lmtp.syntax import Address, Reply
from mailseal.delivery.log import DeliveryLog
from mailseal.delivery.message import Envelope, Message
from mailseal.delivery.outcome import Outcome
from mailseal.delivery.route import Router
from mailseal.errors import ConfigError
from mailseal.logs import Log


def deliver_alone(
    config_path: str | None,
    queue_id: str | None,
    envelope: Envelope,
    recipients: list[Address],
    message: Message,
) -> list[Reply]:
    """Returns one reply for each recipient.  After a ConfigError nothing was delivered."""
    config = configuration.load(config_path or configuration.DEFAULT_PATH)
    log = _log(config)
    known = settings.known(config)  # as root, who can read the complete configuration
    listen.become(config.delivery.user)
    envelope.hostname = listen.hostname(config)
    router = Router(config, known)
    store = make_store(config, router, 0)
    dovecot = relay.dovecot(config, envelope.hostname)
    replies: list[Reply] = []
    for recipient in recipients:
        if message.size > config.delivery.message_limit:
            reply = Reply(552, "5.3.4", "message too large")
            result = Outcome(reply, "none", None, reply.text)
        else:
            route = route_one(router, recipient, message.size)
            if isinstance(route, Outcome):
                result = route
            elif route.action == "relay":
                result = relay_one(route, envelope, message, router, dovecot)
            else:
                job = SealJob(route, envelope, message)
                seal_group([job], store)
                result = job.outcome
        log_one(log, queue_id or message.queue_id(), recipient, envelope, message, result)
        replies.append(result.reply)
    return replies


def _log(config: Config) -> DeliveryLog:
    """The log for one mail.  If it cannot be opened, syslog is used, so that no mail is deferred.

    stderr is never used: pipe(8) would take the line for the status text.
    """
    with contextlib.suppress(ConfigError):
        if config.log.to != "stderr":
            user = user_ids(config.delivery.user, "delivery.user")
            return DeliveryLog(open_log(config, "mailseal-deliver", user))
    return DeliveryLog(Log("syslog", "mailseal-deliver", stderr=False))
