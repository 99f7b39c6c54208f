# SPDX-License-Identifier: MIT
"""The address of a database, as written in `keys.store`.

    postgresql:///mailseal                               unix socket, peer authentication
    postgresql://mailseal@db1.example.org,db2.example.org/mailseal?sslrootcert=/etc/ssl/db.pem
    mysql:///mailseal?socket=/run/mysqld/mysqld.sock
    mysql://mailseal@db.example.org:3307/mailseal?ssl_ca=/etc/ssl/db.pem

Without a user, the user that the program runs as is used.  Of several hosts, the one that accepts
writes is used.  The address never contains a password: everybody can read the configuration.
The certificate of another host is verified, unless the address says otherwise.

FAILURES
    ValueError without text: the option type says what is allowed.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import pwd
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

_PORTS = {"postgresql": 5432, "mysql": 3306}
_OPTIONS = {
    "postgresql": {"host", "sslmode", "sslrootcert", "sslcert", "sslkey"},
    "mysql": {"socket", "ssl_ca", "ssl_cert", "ssl_key"},
}


@dataclasses.dataclass(frozen=True)
class Address:
    """The address of a database.  `hosts` is empty for a unix socket."""

    kind: str
    user: str | None
    hosts: tuple[tuple[str, int], ...]
    database: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        places = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.kind}://{places}/{self.database}"

    @property
    def user_name(self) -> str:
        """The user of the database."""
        if self.user is not None:
            return self.user
        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return str(os.geteuid())

    @property
    def is_remote(self) -> bool:
        """Whether a host is another machine, so that the connection could be tapped."""
        return not all(_is_this_host(host) for host, _ in self.hosts)


def parse(text: str) -> Address:
    """Read an address."""
    parts = urlsplit(text)
    if parts.scheme not in _PORTS or parts.fragment:
        raise ValueError
    user, at, places = parts.netloc.rpartition("@")
    if ":" in user or (at and not user):
        raise ValueError
    options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    database = unquote(parts.path.removeprefix("/"))
    if not options.keys() <= _OPTIONS[parts.scheme] or not re.fullmatch(r"[\w.-]+", database):
        raise ValueError
    port = _PORTS[parts.scheme]
    hosts = tuple(_host(place, port) for place in places.split(",")) if places else ()
    return Address(parts.scheme, unquote(user) if at else None, hosts, database, options)


def _host(text: str, port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::(\d{1,5}))?", text)
    if match is None or int(match[3] or port) > 65535:
        raise ValueError
    return match[1] or match[2], int(match[3] or port)


def _is_this_host(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
