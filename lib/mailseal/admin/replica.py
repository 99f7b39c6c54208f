# SPDX-License-Identifier: MIT
"""mailseal-replica: keeps this host's copy of the public keys current.

SYNOPSIS
    mailseal-replica [-c CONFIG]

DESCRIPTION
    For keys in a database (`keys.store`).  Runs in the foreground, as replica.user, which owns the
    folder of public keys.  It copies the public keys from the database to the folder, and writes
    into the folder until when the copy is certainly current: the lease (keys/lease.py).
    mailseal-lmtp, Dovecot's Lua script and the checkpassword program read only the folder.
    While the database is down, mail for enrolled users is still sealed.  After the lease has
    expired, mail for all other users is deferred.

    SIGTERM, SIGINT  stop; the lease stays valid, so a restart defers no mail
    NOTIFY_SOCKET    gets READY=1 after the first complete copy, WATCHDOG=1, and STOPPING=1

DIAGNOSTICS
    Exit status 78 for a wrong configuration, 75 if it cannot start otherwise.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from mailseal import config as configuration
from mailseal import durable
from mailseal.config import Config
from mailseal.daemon import drop_root, notify, open_log, user_ids
from mailseal.errors import (
    EX_CONFIG,
    EX_OK,
    EX_TEMPFAIL,
    ConfigError,
    MailsealError,
    TemporaryError,
    print_error,
)
from mailseal.keys import opening
from mailseal.keys.public import PublicStore
from mailseal.keys.sql.replica import Replica
from mailseal.login import startup
from mailseal.login.log import logger

_POLL = 1.0
_RENEWALS = 6
"""Renewals during one lease: four may fail before it expires."""


class Stop(BaseException):
    """SIGTERM or SIGINT came."""


class Service:
    """Calls Replica in a loop."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self._config = config
        self._environ = environ
        uid, gid = user_ids(config.replica.user, "replica.user")
        self._log = logger(open_log(config, "mailseal-replica", (uid, gid)))
        self._database = opening.for_replica(config)
        if os.geteuid() == 0 and uid != 0:
            drop_root(uid, gid)
        store = PublicStore(config.public_dir)
        if not store.is_ready():
            raise TemporaryError(
                f"{config.public_dir} is not a folder of public keys", hint="run `mailseal init`"
            )
        self._lock = _lock(os.path.join(config.public_dir, "replica.lock"))
        self._replica = Replica(
            self._database,
            store,
            name=config.replica.name or socket.gethostname(),
            seconds=config.replica.lease,
            log=self._log,
            # For a whole copy, which may take longer than WatchdogSec.
            progress=lambda: self._say("WATCHDOG=1"),
        )
        self._problem = ""
        self._renewed = float("-inf")

    def run(self) -> int:
        """Run until stopped."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        try:
            startup.tell_enrollment(self._config)
            self._log.info("started, lease %d s", self._config.replica.lease)
            if self._replica.is_filled:
                self._say("READY=1")
            while True:
                self._look()
                self._say("WATCHDOG=1")
        except Stop:
            self._say("STOPPING=1")
            self._log.info("stopping")
        return EX_OK

    def _look(self) -> None:
        try:
            every = self._config.replica.lease / _RENEWALS
            if time.monotonic() - self._renewed >= every or self._replica.is_due():
                began = time.monotonic()
                self._replica.step()
                self._renewed = began
                self._say("READY=1")
            if self._problem:
                self._log.info("the copy is current again")
                self._problem = ""
            self._database.wait(_POLL)
        except MailsealError as exc:
            if str(exc) != self._problem:
                self._problem = str(exc)
                startup.tell_unreachable(self._log, exc, "the copy is not renewed: %s")
            time.sleep(_POLL)

    def _say(self, text: str) -> None:
        notify(self._environ.get("NOTIFY_SOCKET"), text)


def _lock(path: str) -> int:
    with durable.reporting(f"cannot lock {path}"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TemporaryError(f"another mailseal-replica holds {path}") from None
    return fd


def _stop(*_: object) -> NoReturn:
    raise Stop


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run mailseal-replica; returns the exit status."""
    parser = argparse.ArgumentParser("mailseal-replica", description="copies the public keys")
    parser.add_argument("-c", "--config", default=configuration.DEFAULT_PATH, metavar="FILE")
    options = parser.parse_args(argv)
    os.umask(0o022)
    try:
        return Service(configuration.load(options.config), environ).run()
    except MailsealError as error:
        print_error("mailseal-replica", error)
        return EX_CONFIG if isinstance(error, ConfigError) else EX_TEMPFAIL
