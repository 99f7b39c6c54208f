# SPDX-License-Identifier: MIT
"""mailseal-lmtp: the delivery daemon, an LMTP server that seals mail.

SYNOPSIS
    mailseal-lmtp [-c CONFIG]

DESCRIPTION
    Runs in the foreground.  Binds delivery.listen and delivery.deliver_socket (or
    uses sockets from systemd), becomes delivery.user permanently, and starts
    delivery.workers worker processes, which do all the work, and one more for
    delivery.deliver_socket.  A worker that dies is replaced and logged.

    SIGTERM, SIGINT  accept no new mail, finish the transactions in progress, exit with 0
    SIGHUP           read the configuration again: new workers use it, and the old
                     workers finish their transactions.  If it is wrong, nothing changes
                     and the log says why.  A change of delivery.user, delivery.userdb,
                     dovecot.userdb_socket or a metrics option needs a restart.
    NOTIFY_SOCKET    gets READY=1, RELOADING=1 and STOPPING=1 (Type=notify)

DIAGNOSTICS
    Exit status 78 if the configuration is wrong, with one line on stderr; 75 if it
    cannot start for another reason.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import time
from collections.abc import Mapping, Sequence

from mailseal import config as configuration
from mailseal.config import Config
from mailseal.daemon import notify, open_log, user_ids
from mailseal.delivery.daemon import listen
from mailseal.delivery.daemon.counting import Counting
from mailseal.delivery.daemon.dovecot_settings import DovecotSettings
from mailseal.delivery.folders import Folders
from mailseal.delivery.log import DeliveryLog
from mailseal.errors import EX_OK, EX_TEMPFAIL, ConfigError, MailsealError, print_error

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_RESTART_PAUSE = 1.0


class Server:
    """The supervisor: sockets, workers, signals."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self.config = config
        self._notify_socket = environ.get("NOTIFY_SOCKET")
        # Before root is dropped: only root can read the complete Dovecot configuration.  So a
        # reload keeps these, and a change in Dovecot needs a restart.  Before any socket is opened,
        # because another process may be started here.
        self._settings = DovecotSettings(config)
        self._inherited = listen.inherited(environ)
        self._sockets = self._inherited or listen.open_all(config)
        lines = open_log(config, "mailseal-lmtp", user_ids(config.delivery.user, "delivery.user"))
        self.log = DeliveryLog(lines)
        self._counting = Counting(config)
        listen.become(config.delivery.user)
        self._workers: dict[int, tuple[str, float]] = {}
        self._retiring: set[int] = set()
        # When this process ends for any reason, the workers see that the other end is closed.
        self._orphan_read, self._orphan_write = os.pipe()

    def run(self) -> int:
        """Serve until it is told to stop."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._start_workers()
        self.log.started(", ".join(self._sockets), len(self._workers))
        if self._settings.known is None:
            self.log.location_unknown()
        self._notify("READY=1")
        while True:
            number = signal.sigwait(_SIGNALS)
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._reload()
            else:
                self._stop()
                return EX_OK

    def _start_workers(self) -> None:
        for name, door in listen.doors(self.config, self._sockets).items():
            have = sum(1 for served, _ in self._workers.values() if served == name)
            for _ in range(have, door.workers):
                self._start_worker(name, door)

    def _start_worker(self, name: str, door: listen.Door) -> None:
        number = self._counting.reserve()
        pid = os.fork()
        if pid:
            self._workers[pid] = name, time.monotonic()
            self._counting.started(pid, number)
            return
        status = 1
        try:
            os.close(self._orphan_write)
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            from mailseal.delivery.daemon.worker import Worker

            hostname = listen.hostname(self.config)
            worker = Worker(
                self.config,
                hostname,
                door.sockets,
                DeliveryLog(self.log.lines, self._counting.outcomes(number)),
                self._orphan_read,
                self._settings.known,
            )
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            worker.run()
            status = 0
        except BaseException as exc:
            self.log.fault(f"worker stopped by {_where(exc)}")
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._retiring:
                self._retiring.discard(pid)
                self._counting.ended(pid)
                continue
            if self._settings.is_from(pid):
                self._take_settings()
                continue
            known = self._workers.pop(pid, None)
            if known is None:
                continue
            self._counting.ended(pid, died=True)
            code = os.waitstatus_to_exitcode(status)
            self.log.worker_died(pid, f"killed by signal {-code}" if code < 0 else f"exited {code}")
            if time.monotonic() - known[1] < _RESTART_PAUSE:
                time.sleep(
                    _RESTART_PAUSE
                )  # if workers cannot start, do not restart them all the time
            self._start_workers()

    def _take_settings(self) -> None:
        """Dovecot has been started: new workers use its settings."""
        if self._settings.take():
            self._renew_workers()
            self.log.location_known()
        else:
            self.log.fault("Dovecot's settings will not be read any more; restart mailseal-lmtp")

    def _renew_workers(self) -> None:
        """Start new workers; the old ones finish their transactions."""
        old = list(self._workers)
        self._workers.clear()
        self._start_workers()
        self._retiring.update(old)
        self._signal(old)

    def _reload(self) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={now}")
        try:
            config = checked(self.config.path)
            _require_same(config, self.config)
            log = self._log_for(config)
            sockets = self._sockets
            if not self._inherited:
                sockets = listen.reopen(config, self._sockets)
        except (MailsealError, OSError) as exc:
            error = exc if isinstance(exc, MailsealError) else ConfigError(str(exc))
            self.log.not_reloaded(error)
            self._notify("READY=1")
            return
        self.config, self.log, self._sockets = config, log, sockets
        self._renew_workers()
        self.log.reloaded()
        self._notify("READY=1")

    def _log_for(self, config: Config) -> DeliveryLog:
        """The present log, with its file reopened; or a new one if log.to has changed."""
        if config.log.to != self.config.log.to:
            return DeliveryLog(open_log(config, "mailseal-lmtp", None))
        self.log.lines.reopen()
        return self.log

    def _stop(self) -> None:
        self._notify("STOPPING=1")
        self.log.stopping()
        if not self._inherited:
            listen.close_all(self._sockets)
        everyone = [*self._workers, *self._retiring]
        self._signal(everyone)
        for pid in everyone:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    @staticmethod
    def _signal(pids: Sequence[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _notify(self, text: str) -> None:
        notify(self._notify_socket, text)


def _require_same(new: Config, old: Config) -> None:
    """Raise ConfigError if an option has changed that counts only while this process is root."""
    for name in ("delivery.user", "delivery.userdb", "dovecot.userdb_socket"):
        section, option = name.split(".")
        if getattr(getattr(new, section), option) != getattr(getattr(old, section), option):
            raise ConfigError(f"{name} can only be changed by a restart")


def _where(exc: BaseException) -> str:
    """Class and place of a bug, without its text, which may contain data of a mail."""
    frame = exc.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = (
        f" at {os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}"
        if frame
        else ""
    )
    return f"{type(exc).__name__}{place}"


def checked(path: str) -> Config:
    """Load the configuration, with the additional checks of mailseal-lmtp."""
    config = configuration.load(path)
    share = config.delivery.in_flight_limit // config.delivery.workers
    if share < config.delivery.message_limit + (1 << 17):
        raise ConfigError(
            f"{path}: delivery.in_flight_limit, shared by {config.delivery.workers} workers, is "
            "too small for one mail of delivery.message_limit",
            hint="raise delivery.in_flight_limit, or lower delivery.workers",
        )
    listen.trusted_uids(config)
    try:
        Folders(config.delivery.header_rules, config.delivery.detail_folder)
    except ValueError:
        raise ConfigError(
            f"{path}: delivery.header_rules contains an invalid folder name"
        ) from None
    return config


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the daemon; returns the exit status."""
    parser = argparse.ArgumentParser("mailseal-lmtp", description="LMTP server that seals mail")
    parser.add_argument("-c", "--config", default=configuration.DEFAULT_PATH, metavar="FILE")
    options = parser.parse_args(argv)
    os.umask(0o077)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it is ignored, dead workers are not reported
    try:
        server = Server(checked(options.config), environ)
    except (MailsealError, OSError) as error:
        print_error("mailseal-lmtp", error)
        return getattr(error, "exit_status", EX_TEMPFAIL)
    import mailseal.delivery.daemon.worker  # noqa: F401 - once, shared by all workers

    gc.collect()
    gc.freeze()
    return server.run()
