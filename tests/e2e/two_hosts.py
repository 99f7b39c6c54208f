# SPDX-License-Identifier: MIT
"""Hosts with Postfix, Dovecot, an agent and a replica; a test can cut them off the database."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from mailseal.login.client import AgentClient, Answer
from tests.lab import Lab, clusters, proxy
from tests.lab.clusters import Keys
from tests.lab.dovecot import installed_version, series
from tests.lab.process import Server
from tests.lab.smtp import send

MAGIC = b"CRYPTED\x03\x07"
LEASE = 10
"""Seconds: longer than a busy machine stands still, and not too long to wait for its end."""
LONG_LEASE = 60
PLAIN = "plain@example.org"


@dataclasses.dataclass
class Host:
    """A lab, and its connection to the database."""

    lab: Lab
    way: Server

    def ask(self, verb: str, **fields: bytes) -> Answer:
        with AgentClient(self.lab.agent_socket, 120) as agent:
            return agent.request(verb, **fields)

    def unlock(self, user: str, password: bytes = b"password") -> str:
        return self.ask("unlock", user=user.encode(), password=password).status


@contextlib.contextmanager
def made(
    keys: Keys,
    folder: str,
    name: str,
    servers: Sequence[str] = (),
    auth: str = "behind-passwd-file",
    users: Sequence[str] = (),
    lease: int = LEASE,
) -> Iterator[Host]:
    """A host whose connections to the database, or to each of its `servers`, can be cut."""
    way = f"{folder}/{name}"
    os.mkdir(way)
    os.chmod(way, 0o755)
    pairs: list[str] = []
    for number, target in enumerate(servers or (keys.server.connect["host"],)):
        os.mkdir(f"{way}/{number}")
        pairs += [f"{way}/{number}/.s.PGSQL.5432", f"{target}/.s.PGSQL.5432"]
    server = Server("proxy", [sys.executable, proxy.__file__, *pairs], f"{way}/log")
    server.start(until=pairs[::2])
    hosts = ",".join(os.path.dirname(path) for path in pairs[::2])
    agent, replica = (url.partition("?")[0] + f"?host={hosts}" for url in keys.roles())
    try:
        with Lab(
            {},
            auth=auth,
            plain_users=dict.fromkeys((PLAIN, *users), "password"),
            stores=(agent, replica),
            config_extra={"replica.name": name, "replica.lease": lease},
        ) as lab:
            yield Host(lab, server)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGCONT)
        server.stop()


@contextlib.contextmanager
def pair(users: Sequence[str]) -> Iterator[tuple[Keys, Host, Host]]:
    """Two hosts over one PostgreSQL.  With Dovecot 2.3, the second one has no Lua.

    Both Dovecots know the users; none of them is enrolled.  On a busy machine no lease ends either.
    """
    second = "behind-passwd-file"
    if series(installed_version()) == "2.3":
        second += "-checkpassword"
    with clusters.folder() as folder, contextlib.ExitStack() as last_first:
        keys = clusters.postgresql(folder)
        last_first.callback(keys.server.stop)
        keys.with_roles()
        one, two = (
            last_first.enter_context(
                made(keys, folder, name, auth=auth, users=users, lease=LONG_LEASE)
            )
            for name, auth in (("one", "behind-passwd-file"), ("two", second))
        )
        yield keys, one, two


def add(hosts: tuple[Host, Host], user: str) -> None:
    """A user of both Dovecots, not enrolled."""
    for host in hosts:
        lab = host.lab
        lab.users[user] = "password"
        lab.dovecot.write_users({**lab.users, **lab.options.plain_users})
    time.sleep(1.1)  # Dovecot looks at the file's time once a second


def in_clear(lab: Lab, user: str) -> list[bytes]:
    """Mails of the user that are not sealed."""
    found = []
    for path in lab.stored(user):
        with open(path, "rb") as stream:
            if not (data := stream.read()).startswith(MAGIC):
                found.append(data)
    return found


def deliver(lab: Lab, user: str, text: str = "x") -> None:
    mail = f"Subject: {text}\r\n\r\n{text}\r\n".encode()
    send(lab.smtp, "eve@example.net", [user], mail)
