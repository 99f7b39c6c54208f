# SPDX-License-Identifier: MIT
"""mailseal-agent: keeps opened keyrings in memory and passes keys to logins.

SYNOPSIS
    mailseal-agent [-c CONFIG]

DESCRIPTION
    If it is started as root, it locks its memory and then becomes agent.user permanently.
    Its folders must exist (`mailseal init`).  It runs in the foreground and listens on
    agent.socket.  The kernel reports the uid of each client: agent.login_users may
    unlock keyrings, agent.panel_users may use the verbs that require a password or recovery
    code, agent.admin_users may use all verbs, and all others are refused.  Only one agent can
    listen on a socket; a socket file that was left by a crash is replaced.

    SIGTERM, SIGINT  overwrite all sessions and exit with 0
    SIGHUP           reopen the log file and do nothing else: `mailseal lock --all` ends
                     sessions, and a new configuration needs a restart

    If it hangs, systemd restarts it (WatchdogSec=), and its sessions are lost.

DIAGNOSTICS
    Exit status 78 for a wrong configuration, 75 for a temporary failure.  Each
    unlock, change and refusal is logged, without secrets.

BUGS
    Python cannot guarantee that no copy of a secret stays in memory: docs/design.md says what is
    done against it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mailseal import config as configuration
from mailseal.config import Config
from mailseal.crypto import kdf
from mailseal.daemon import drop_root, notify, open_log, user_ids
from mailseal.errors import MailsealError, UsageError, print_error
from mailseal.keys import opening
from mailseal.login import from_config, hardening, indexer, indexes, keeper, protocol, startup
from mailseal.login.admin_verbs import AdminVerbs
from mailseal.login.callers import Caller, Callers
from mailseal.login.chores import Chores
from mailseal.login.describe import describe
from mailseal.login.guesses import Guesses
from mailseal.login.known_addresses import KnownAddresses
from mailseal.login.log import logger
from mailseal.login.login_verbs import LoginVerbs
from mailseal.login.lookups import running as lookups
from mailseal.login.measures import Measures, make_counters
from mailseal.login.panel_verbs import PanelVerbs
from mailseal.login.self_service import SelfService
from mailseal.login.sessions import Sessions
from mailseal.login.tag_checks import TAKEN, TagChecks, connection
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.vault import Vault
from mailseal.login.verbs import error_answer
from mailseal.logs import Log

if TYPE_CHECKING:
    from mailseal.keys.sql.database import Database

# Seconds after which the connection of a silent client is closed.
_SILENCE = 300
_EXPIRE_EVERY = 10
_REFUSAL = 5


class Agent:
    """The server: accepts connections, checks the rights of clients, and reads and writes lines."""

    def __init__(
        self,
        service: LoginVerbs,
        *,
        callers: Callers,
        log: logging.Logger,
    ) -> None:
        self.service = service
        self._callers = callers
        self._log = log
        self.measures: Measures | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Answer requests until `stop` is set, then overwrite all sessions."""
        # Not start_unix_server: in Python 3.13 it removes the socket's file at the end, by the
        # name to which the socket was bound, and this is a name in /proc/self/fd.
        server = await asyncio.start_server(
            self._connected,
            sock=listener,
            limit=protocol.MAX_REQUEST,
            backlog=startup.BACKLOG,  # default 100: start_server() calls listen(2) again
        )
        background = [asyncio.create_task(self._expire())]
        known = None
        if self.service.notes is not None:
            known = KnownAddresses(self.service.guesses, self.service.notes)
            background.append(asyncio.create_task(known.run()))
        if self.service.indexes is not None:
            background.append(asyncio.create_task(self.service.indexes.run()))
        if self.service.search is not None:
            self.service.search.start()
        if self.measures is not None:
            background.append(asyncio.create_task(self.measures.run()))
        try:
            await stop.wait()
        finally:
            server.close()
            for task in (*background, *self._tasks):
                task.cancel()
            ended = self.service.sessions.end_all()
            if known is not None:
                known.save()
            if self.service.indexes is not None:
                await self.service.indexes.stop()
            self.service.pools.stop()
            self._log.info("stopped, sessions ended=%d", ended)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_EVERY)
            for user in self.service.sessions.expire():
                self._log.info("session timed out: user=<%s>", user)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        connection.set(writer)
        caller = self._callers.of(writer.get_extra_info("socket"))
        try:
            with self._callers.connected(caller) as has_room:
                if not has_room:
                    self._callers.log_refusal(self._log, caller, "too many connections")
                elif caller.listed:
                    await self._talk(caller, reader, writer)
                else:
                    await self._refuse(caller, reader, writer)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            pass  # the client closed the connection or is silent, or the agent stops
        finally:
            writer.close()

    async def _refuse(
        self, caller: Caller, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._callers.log_refusal(
            self._log, caller, "not in agent.login_users, agent.panel_users or agent.admin_users"
        )
        # Closing before the request is read would reset the connection, and the answer be lost.
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await asyncio.wait_for(reader.readuntil(b"\n"), _REFUSAL)
        writer.write(protocol.encode("denied", {}))
        await writer.drain()

    async def _talk(
        self, caller: Caller, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            try:
                line = await asyncio.wait_for(reader.readuntil(b"\n"), _SILENCE)
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                status, fields = error_answer(UsageError("the request is too long"))
                writer.write(protocol.encode(status, fields))
                await writer.drain()
                return
            try:
                verb, request = protocol.decode(line)
            except UsageError as exc:
                status, fields = error_answer(exc)
            else:
                if not (caller.login or caller.page):
                    request.pop("remote", None)
                status, fields = await self.service.answer(verb, request, **caller.rights())
                if status == TAKEN:
                    return
                if status == "denied":
                    self._callers.log_refusal(self._log, caller, f"not allowed to {verb}")
            writer.write(protocol.encode(status, fields))
            await writer.drain()


def main(argv: list[str], outside: from_config.Outside | None = None) -> int:
    """Run the agent until it is told to stop; returns the exit status.

    `outside`: for users who enroll themselves.
    """
    parser = argparse.ArgumentParser(prog="mailseal-agent", description="mailseal's key agent")
    parser.add_argument("-c", "--config", default=configuration.DEFAULT_PATH, metavar="FILE")
    try:
        run(configuration.load(parser.parse_args(argv[1:]).config), outside)
    except MailsealError as exc:
        print_error("mailseal-agent", exc)
        return exc.exit_status
    return 0


def run(config: Config, outside: from_config.Outside | None = None) -> None:
    """Start, serve, stop."""
    uid, gid = user_ids(config.agent.user, "agent.user")
    callers = Callers(
        login=from_config.uids(config.agent.login_users, "agent.login_users"),
        panel=(panel_uids := from_config.uids(config.agent.panel_users, "agent.panel_users")),
        admin=from_config.uids(config.agent.admin_users, "agent.admin_users"),
        page=from_config.uids((config.web.user,) if config.web.listen else (), "web.user"),
    )
    version = startup.dovecot_version(config)
    escrow = startup.escrow_key(config)
    policy = from_config.policy(config)
    cost = kdf.PROFILES[config.keys.kdf]
    os.umask(0o077)
    lines = open_log(config, "mailseal-agent", (uid, gid))
    log = logger(lines)
    store, public, database = opening.stores(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until the loop handles them.  SystemExit could be lost, in a callback of an import.
        signal.signal(number, lambda *_: os._exit(0))
    startup.require_store(config)
    notes = startup.notes(config, (uid, gid))
    lock = startup.lock(config)
    with contextlib.ExitStack() as last_first:
        last_first.enter_context(lookups(config, version, log))
        listener = startup.listen(config, from_config.login_group(config), panel_uids)
        last_first.callback(listener.close)
        for_indexer = indexer.open_socket(config)
        keepers = keeper.start(config)  # before there is a key in this process
        counts = make_counters(config)
        got = {"memory_locked": hardening.lock_memory()}
        if os.geteuid() == 0 and uid != 0:
            drop_root(uid, gid)
        got.update(hardening.forbid_dumps())
        log.info("hardening: %s", ", ".join(f"{name}={value}" for name, value in got.items()))
        if cost.name == "insecure-testing":
            log.warning("keys.kdf is insecure-testing: new slots are not protected")
        pools = ThreadPools(
            parallel=config.agent.parallel,
            queue=config.agent.queue,
            memory_kib=config.agent.parallel * cost.memory_kib,
        )
        curve = config.keys.curve
        vault = Vault(
            store,
            public,
            curve=curve,
            cost=cost,
            version=version,
            escrow=escrow,
            derive=pools.derive,
            log=log,
            copy=opening.copy(config),
        )
        hosts = None
        if database is None:
            threading.Thread(target=vault.tidy, name="tidy", daemon=True).start()
            startup.tell_enrollment(config)
        else:
            startup.reach(database, log)
            from mailseal.keys.sql.hosts import Hosts

            hosts = Hosts(database)
        idle, absolute = config.agent.idle_timeout, config.agent.absolute_timeout
        sessions = Sessions(idle=idle, absolute=absolute)
        guesses = Guesses(from_config.limits(config), log=log)
        placed = indexes.configured(config, version, keepers, vault.is_known, log)
        admin_verbs = AdminVerbs(vault, sessions, pools, log, placed, hosts).verbs
        chores = Chores(notes, admin_verbs["unenroll"], log)
        self_service = SelfService(
            vault,
            pools,
            sessions,
            newcomers=from_config.newcomers(vault, config, outside),
            chores=chores,
            notes=notes,
            old_mail=functools.partial(outside.old_mail, config) if outside else lambda user: None,
            describe=lambda user: describe(user, vault, sessions, placed),
            admin_verbs=admin_verbs,
            seals_old_mail=config.seal.existing == "at-enrollment",
            enrolls_at_login=policy.enrolls,
            log=log,
        )
        service = LoginVerbs(
            vault,
            sessions,
            pools,
            admin_verbs={**admin_verbs, **TagChecks(sessions, log).verbs, **chores.verbs},
            panel_verbs=(panel := PanelVerbs(vault, pools, admin_verbs, guesses)).verbs,
            page_verbs={**panel.verbs, **panel.guarded(self_service.verbs)},
            version=version,
            policy=policy,
            log=log,
            guesses=guesses,
            indexes=placed,
            notes=notes,
        )
        service.search = indexer.configured(config, for_indexer, service, placed)
        agent = Agent(service, callers=callers, log=log)
        if counts is not None:
            agent.measures = Measures(counts, service, pools)
        log.info("listening on %s for Dovecot %s, uid=%d", config.agent.socket, version, uid)
        asyncio.run(_serve(agent, listener, lines, database))
    with contextlib.suppress(OSError):
        os.unlink(config.agent.socket)
    os.close(lock)


async def _serve(
    agent: Agent, listener: socket.socket, lines: Log, database: Database | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if database is not None:
        from mailseal.login.watch import Changed, Watch

        service = agent.service

        def changed(changes: Changed, locked: list[str] | None) -> None:
            asyncio.run_coroutine_threadsafe(service.stored.changed(changes, locked), loop)

        Watch(database, service.vault.store, changed, service.log).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lines.reopen)
    notify(os.environ.get("NOTIFY_SOCKET"), "READY=1")
    watchdog = asyncio.create_task(_feed_watchdog(os.environ))
    try:
        await agent.serve(listener, stop)
    finally:
        watchdog.cancel()


async def _feed_watchdog(environ: Mapping[str, str]) -> None:
    """Tell systemd that the event loop runs (WatchdogSec=); otherwise it restarts the agent."""
    every = int(environ.get("WATCHDOG_USEC", "0")) / 2e6
    while every:
        notify(environ.get("NOTIFY_SOCKET"), "WATCHDOG=1")
        await asyncio.sleep(every)
