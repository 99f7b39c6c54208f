# SPDX-License-Identifier: MIT
"""The ports on which Dovecot and Postfix accept logins, from their configurations."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailseal.admin.doctor.site import Site

_SERVICES = {
    "imap": "imap-login",
    "pop3": "pop3-login",
    "submission": "submission-login",
    "sieve": "managesieve-login",
}
_USUAL = {
    "imap": (143, False),
    "imaps": (993, True),
    "pop3": (110, False),
    "pop3s": (995, True),
    "submission": (587, False),
    "submissions": (465, True),
    "sieve": (4190, False),
}
"""Port, and whether it begins with TLS, if the listener does not say it (2.4)."""

_EVERYWHERE = {"*": "127.0.0.1", "::": "::1", "0.0.0.0": "127.0.0.1"}  # noqa: S104


@dataclasses.dataclass(frozen=True)
class Listener:
    """One port.  `tls`: TLS from the first byte, not with STARTTLS.  `host`: how to reach it."""

    host: str
    port: int
    tls: bool
    everywhere: bool = True

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return not self.everywhere and ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def of(site: Site, protocol: str) -> Iterator[Listener]:
    """Dovecot's ports of one protocol."""
    root = site.dovecot()
    for service in root.all("service"):
        if service.name != _SERVICES[protocol]:
            continue
        for block in service.all("inet_listener"):
            port, tls = _USUAL.get(block.name, (0, False))
            port = int(block.get("port") or port)
            tls = block.get("ssl") == "yes" if block.get("ssl") else tls
            if not port or block.get("haproxy") == "yes":
                continue
            if tls and root.get("ssl") == "no":
                continue  # Dovecot does not listen there
            where = block.get("address") or block.get("listen") or root.get("listen") or "*, ::"
            first = where.replace(",", " ").split()[0]
            yield Listener(_EVERYWHERE.get(first, first), port, tls, first in _EVERYWHERE)


def submission_of_postfix(site: Site) -> Iterator[Listener]:
    """The ports of Postfix's smtpd on which users can log in with AUTH."""
    main = site.postfix.main
    for service in site.postfix.services:
        options = {**main, **service.options}
        if service.kind != "inet" or service.command != "smtpd":
            continue
        if options.get("smtpd_sasl_auth_enable") != "yes":
            continue
        host, _, port = service.name.rpartition(":")
        number = _port(port)
        if number:
            host = host.strip("[]") or main.get("inet_interfaces", "all").split(",")[0].strip()
            shown = "127.0.0.1" if host in ("all", "loopback-only", "") else host
            wrapped = options.get("smtpd_tls_wrappermode") == "yes"
            yield Listener(shown, number, wrapped, host == "all")


def _port(name: str) -> int:
    import socket

    try:
        return int(name) if name.isdecimal() else socket.getservbyname(name, "tcp")
    except OSError:
        return {"smtps": 465, "submissions": 465, "submission": 587, "smtp": 25}.get(name, 0)
