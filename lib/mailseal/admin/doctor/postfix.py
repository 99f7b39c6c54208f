# SPDX-License-Identifier: MIT
"""Checks of Postfix: mail reaches mailseal-lmtp, and both agree on sizes and delimiters."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mailseal.admin.doctor.check import Check, Outcome, failed, warned
from mailseal.admin.doctor.site import Site

_TRANSPORTS = ("virtual_transport", "mailbox_transport", "local_transport", "transport_maps")


def _transport(site: Site) -> Iterator[Outcome]:
    """Whether any mail is delivered to mailseal; the test mail of USER proves that it is."""
    main = site.postfix.main
    ours = _addresses(site)
    named = {name: main.get(name, "") for name in _TRANSPORTS}
    if any(_reaches(value, ours) for value in named.values()):
        return
    pipes = [s for s in site.postfix.services if s.command == "pipe" and "mailseal" in s.name]
    if pipes or "mailseal" in named["transport_maps"]:
        return
    domains = main.get("virtual_mailbox_domains", "")
    wanted = "virtual_transport" if domains else "mailbox_transport"
    listens = next((a for a in ours if a.startswith("/")), "")
    there = f"unix:{listens}" if listens else f"inet:{ours[0]}"
    name = "mailseal" if any(s.name == "mailseal" for s in site.postfix.services) else "lmtp"
    commands = f"`postconf -e '{wanted} = {name}:{there}'` and `postfix reload`"
    yield failed(
        f"Postfix does not deliver to mailseal-lmtp ({wanted} is {named[wanted] or 'empty'}): new "
        "mail of enrolled users is stored without mailseal",
        f"run the commands in postfix-conf/virtual-transport.md; in short: {commands}",
    )


def _deferred(site: Site) -> Iterator[Outcome]:
    """As in docs/upgrade.md, before an upgrade."""
    main = site.postfix.main
    names = main.get("defer_transports", "").replace(",", " ").split()
    used = {main.get(name, "").partition(":")[0] for name in _TRANSPORTS[:3]} | {"mailseal"}
    for name in names:
        if name in used:
            yield failed(
                f"Postfix keeps all mail for the transport {name} in its queue (defer_transports)",
                "run `postconf -X defer_transports` and `postfix reload`",
            )


def _addresses(site: Site) -> list[str]:
    return list(site.config.delivery.listen)


def _reaches(value: str, ours: list[str]) -> bool:
    """Whether a transport names one of mailseal's sockets, also relative to the queue."""
    return any(
        address in value or (address.startswith("/") and os.path.basename(address) in value)
        for address in ours
    ) or value.startswith("mailseal:")


def _chroot(site: Site) -> Iterator[Outcome]:
    """An lmtp(8) in a chroot does not see sockets outside Postfix's queue."""
    main = site.postfix.main
    queue = main["queue_directory"]
    for name in ("virtual_transport", "mailbox_transport"):
        transport, _, place = main.get(name, "").partition(":")
        path = place.removeprefix("unix:")
        if not path.startswith("/") or not _reaches(path, _addresses(site)):
            continue
        for service in site.postfix.services:
            outside = not path.startswith(f"{queue}/")
            if service.name == transport and service.kind == "unix" and service.chroot and outside:
                key = f"{service.name}/unix/chroot"
                yield failed(
                    f"Postfix's service {transport} runs in a chroot and cannot reach {path}",
                    f"run `postconf -F '{key} = n'` and `postfix reload`",
                )


def _agreement(site: Site) -> Iterator[Outcome]:
    main = site.postfix.main
    delivery = site.config.delivery
    largest = int(main.get("message_size_limit") or 0)
    if not largest or largest > delivery.message_limit:
        yield failed(
            f"Postfix accepts mails of {largest or 'any number of'} bytes, but "
            f"delivery.message_limit is {delivery.message_limit}: larger ones bounce",
            f"run `postconf -e 'message_size_limit = {delivery.message_limit}'` and "
            "`postfix reload`",
        )
    theirs = main.get("recipient_delimiter", "")
    if theirs and (delivery.recipient_delimiter or "") not in theirs:
        yield warned(
            f"Postfix's recipient_delimiter is {theirs}, but delivery.recipient_delimiter is "
            f"{delivery.recipient_delimiter}: mail to user+detail is handled differently",
            f"run `postconf -e 'recipient_delimiter = {delivery.recipient_delimiter or ''}'` and "
            "`postfix reload`",
        )


CHECKS = (
    Check(
        "transport",
        "Postfix delivers to mailseal-lmtp",
        "run the commands in postfix-conf/virtual-transport.md; `postconf virtual_transport` shows "
        "the present value",
        _transport,
    ),
    Check(
        "deferred",
        "Postfix does not keep all mail for mailseal in its queue",
        "run `postconf -X defer_transports` and `postfix reload`",
        _deferred,
    ),
    Check(
        "chroot",
        "Postfix's lmtp(8) can reach the socket",
        "run the commands in postfix-conf/virtual-transport.md, then `postfix reload`",
        _chroot,
    ),
    Check(
        "agreement",
        "Postfix and mailseal agree on the largest mail and on the recipient delimiter",
        "run `postconf -n`",
        _agreement,
    ),
)
