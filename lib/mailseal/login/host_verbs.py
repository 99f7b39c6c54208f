# SPDX-License-Identifier: MIT
"""Admin verbs: lock on all hosts, list hosts, forget a host."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import TYPE_CHECKING

from mailseal.errors import NotEnrolled, UsageError
from mailseal.keys.stores import KeyringStore
from mailseal.login.indexes import Indexes
from mailseal.login.protocol import Fields
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.verbs import Answer, Verb, text_of, user_of

if TYPE_CHECKING:
    from mailseal.keys.sql.hosts import Hosts


class HostVerbs:
    """`hosts` is None if the keys are in files."""

    def __init__(
        self,
        store: KeyringStore,
        sessions: Sessions,
        pools: ThreadPools,
        log: logging.Logger,
        indexes: Indexes | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._pools = pools
        self._log = log
        self._indexes = indexes
        self._hosts = hosts
        self.verbs: dict[str, Verb] = {
            "lock": self._lock,
            "hosts": self._list,
            "forget_host": self._forget,
        }

    async def _lock(self, fields: Fields) -> Answer:
        """End the sessions here, then on the other hosts, which takes a second or two.

        The answer names the users whose connections to this host should be ended too.
        """
        user = user_of(fields) if "user" in fields else None
        count = self._sessions.end_all() if user is None else int(self._sessions.end(user))
        whose = "all users" if user is None else f"user=<{user}>"
        connected: list[str] = []
        if (places := self._indexes) is not None:
            connected = await (places.lock_all() if user is None else places.lock(user))
        self._log.info("lock: %s, sessions ended=%d", whose, count)
        if self._hosts is not None:
            await self._pools.quick(lambda: self._store.end_sessions(user))
        answer = {"ended": str(count).encode()}
        return "ok", {**answer, "connected": "\n".join(connected).encode()} if connected else answer

    async def _list(self, _fields: Fields) -> Answer:
        hosts = self._hosts
        found = [] if hosts is None else await self._pools.quick(hosts.all)
        listed = [dataclasses.asdict(host) for host in found]
        return "ok", {"hosts": json.dumps(listed).encode()}

    async def _forget(self, fields: Fields) -> Answer:
        name, hosts = text_of(fields, "name"), self._hosts
        if hosts is None:
            raise UsageError("keys.store is files: there are no other hosts")
        count = await self._pools.quick(lambda: hosts.forget(name))
        if not count:
            raise NotEnrolled(f"there is no host {name}", hint="`mailseal hosts` lists them")
        self._log.warning(
            "host %s forgotten: unless it was rebooted, it must not deliver mail", name
        )
        return "ok", {}
