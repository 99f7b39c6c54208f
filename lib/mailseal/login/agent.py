# SPDX-License-Identifier: MIT
"""mailseal-agent: keeps opened keyrings in memory and hands keys to logins.

SYNOPSIS
    mailseal-agent [-c CONFIG]

DESCRIPTION
    Started as root it locks its memory, then becomes agent.user for good.
    `mailseal init` has made its folders before.  It listens on agent.socket, in the
    foreground, and asks the kernel for the uid of every caller: agent.login_users may
    unlock, agent.panel_users may do what a password or recovery code proves,
    agent.admin_users may do everything, others are refused.  One agent a socket;
    a socket file that a crash left behind is replaced.
    SIGTERM and SIGINT overwrite all sessions and end it with status 0.
    SIGHUP opens the log file anew and changes nothing else: `mailseal lock --all` ends sessions,
    and a new configuration needs a restart.  With WatchdogSec= systemd starts
    an agent anew that hangs; its sessions are lost.

DIAGNOSTICS
    Exit status 78 for a wrong configuration, 75 for what may pass.  Every
    unlock, change and refusal makes a log line; none holds a secret.

BUGS
    Python cannot promise that no copy of a secret stays in memory: see hardening.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping

from mailseal import config as configuration
from mailseal.config import Config
from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PublicKey
from mailseal.daemon import drop_root, notify, open_log, user_ids
from mailseal.errors import ConfigError, Damaged, MailsealError, UsageError, print_error
from mailseal.keys.keystore import Keystore
from mailseal.keys.public import PublicStore
from mailseal.login import hardening, protocol, startup
from mailseal.login.admin_verbs import AdminVerbs
from mailseal.login.callers import Caller, Callers
from mailseal.login.guesses import Guesses, Limits
from mailseal.login.log import logger
from mailseal.login.login_verbs import LoginVerbs, Policy
from mailseal.login.panel_verbs import PanelVerbs
from mailseal.login.sessions import Sessions
from mailseal.login.thread_pools import ThreadPools
from mailseal.login.vault import Vault
from mailseal.login.verbs import error_answer
from mailseal.logs import Log

# Seconds after which the connection of a silent client is closed.
_SILENCE = 300
_EXPIRE_EVERY = 10
_REFUSAL = 5


class Agent:
    """The server around the verbs: who may speak, and the lines."""

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
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Answer until `stop` is set, then overwrite every session."""
        # Not start_unix_server: in Python 3.13 it looks for the socket's file, to remove it in the
        # end, under the name it was bound by, and that is one of /proc/self/fd.
        server = await asyncio.start_server(
            self._connected,
            sock=listener,
            limit=protocol.MAX_REQUEST,
            backlog=startup.BACKLOG,  # else 100: start_server() calls listen(2) again
        )
        expiry = asyncio.create_task(self._expire())
        try:
            await stop.wait()
        finally:
            server.close()
            for task in (expiry, *self._tasks):
                task.cancel()
            ended = self.service.sessions.end_all()
            self.service.pools.stop()
            self._log.info("stopped, sessions ended=%d", ended)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_EVERY)
            for user in self.service.sessions.expire():
                self._log.info("session ended by time: user=<%s>", user)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
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
            pass  # hung up, silent for too long, or the agent stops
        finally:
            writer.close()

    async def _refuse(
        self, caller: Caller, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._callers.log_refusal(
            self._log, caller, "not in agent.login_users, agent.panel_users or agent.admin_users"
        )
        # closing with its request unread would reset the connection before it sees the answer
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
                status, fields = await self.service.answer(
                    verb, request, login=caller.login, panel=caller.panel, admin=caller.admin
                )
                if status == "denied":
                    self._callers.log_refusal(self._log, caller, f"not allowed to {verb}")
            writer.write(protocol.encode(status, fields))
            await writer.drain()


def main(argv: list[str]) -> int:
    """Run the agent until it is told to stop; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mailseal-agent", description="mailseal's key agent")
    parser.add_argument("-c", "--config", default=configuration.DEFAULT_PATH, metavar="FILE")
    try:
        run(configuration.load(parser.parse_args(argv[1:]).config))
    except MailsealError as exc:
        print_error("mailseal-agent", exc)
        return exc.exit_status
    return 0


def run(config: Config) -> None:
    """Start, serve, stop."""
    uid, gid = user_ids(config.agent.user, "agent.user")
    callers = Callers(
        login=_uids(config.agent.login_users, "agent.login_users"),
        panel=(panel_uids := _uids(config.agent.panel_users, "agent.panel_users")),
        admin=_uids(config.agent.admin_users, "agent.admin_users"),
    )
    version = dovecot_version(config)
    escrow = _escrow_key(config)
    policy = Policy(
        config.login.enroll == "at-login",
        tuple(entry.lower() for entry in config.login.enroll_for),
        frozenset(config.login.keyless_services),
        keyring_decides=config.login.password_check == "keyring",  # noqa: S105 - no password
    )
    cost = kdf.PROFILES[config.keys.kdf]
    os.umask(0o077)
    lines = open_log(config, "mailseal-agent", (uid, gid))
    log = logger(lines)
    store, public = Keystore(config.keys_dir), PublicStore(config.public_dir)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopped_early)  # until the loop takes over
    startup.require_store(config)
    listener, lock = startup.listen(config, _login_group(config), panel_uids)
    with contextlib.closing(listener):
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
        )
        vault.sweep()
        vault.publication.publish_missing()
        startup.tell_enrollment(config)
        idle, absolute = config.agent.idle_timeout, config.agent.absolute_timeout
        sessions = Sessions(idle=idle, absolute=absolute)
        guesses = Guesses(_limits(config), log=log)
        admin_verbs = AdminVerbs(vault, sessions, pools, log).verbs
        service = LoginVerbs(
            vault,
            sessions,
            pools,
            admin_verbs=admin_verbs,
            panel_verbs=PanelVerbs(vault, pools, admin_verbs, guesses).verbs,
            version=version,
            policy=policy,
            log=log,
            guesses=guesses,
        )
        agent = Agent(service, callers=callers, log=log)
        log.info("listening on %s for Dovecot %s, uid=%d", config.agent.socket, version, uid)
        asyncio.run(_serve(agent, listener, lines))
    with contextlib.suppress(OSError):
        os.unlink(config.agent.socket)
    os.close(lock)


def _stopped_early(_number: int, _frame: object) -> None:
    sys.exit(0)


async def _serve(agent: Agent, listener: socket.socket, lines: Log) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
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
    """Tell systemd from the loop that the loop is alive (WatchdogSec=): else it starts us anew."""
    every = int(environ.get("WATCHDOG_USEC", "0")) / 2e6
    while every:
        notify(environ.get("NOTIFY_SOCKET"), "WATCHDOG=1")
        await asyncio.sleep(every)


def dovecot_version(config: Config) -> str:
    """ "2.3" or "2.4": as configured, or what `dovecot --version` says."""
    import subprocess

    configured = config.dovecot.version
    if configured != "auto":
        return configured
    hint = "set dovecot.version to 2.3 or 2.4"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    try:
        said = subprocess.run(
            ["dovecot", "--version"],
            capture_output=True,
            timeout=10,
            check=True,
            env={"PATH": path},
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        raise ConfigError("cannot ask `dovecot --version`", hint=hint) from None
    for version in ("2.3", "2.4"):
        if said.startswith(f"{version}."):
            return version
    raise ConfigError(f"dovecot {said.strip()[:40]} is neither 2.3 nor 2.4", hint=hint)


def _limits(config: Config) -> Limits:
    login = config.login
    return Limits(
        per_user=login.wrong_per_user,
        per_address=login.wrong_per_address,
        pause=login.wrong_pause,
        shared=login.shared_addresses,
    )


def _uids(names: tuple[str, ...], option: str) -> frozenset[int]:
    return frozenset(user_ids(name, option)[0] for name in names)


def _login_group(config: Config) -> int | None:
    """The group of the first of agent.login_users that is not root; None if there is none."""
    for name in config.agent.login_users:
        uid, gid = user_ids(name, "agent.login_users")
        if uid != 0:
            return gid
    return None


def _escrow_key(config: Config) -> PublicKey | None:
    """The organisation's public key, if there is one.  ConfigError if it cannot be read."""
    path = config.keys.escrow
    if path is None:
        return None
    try:
        with open(path, encoding="ascii") as stream:
            return PublicKey.parse(stream.read(65536))
    except OSError as exc:
        raise ConfigError(f"option keys.escrow: cannot read {path}: {exc.strerror}") from None
    except (Damaged, ValueError):
        raise ConfigError(f"option keys.escrow: {path} holds no public key we know") from None
