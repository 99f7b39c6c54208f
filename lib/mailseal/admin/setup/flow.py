# SPDX-License-Identifier: MIT
"""Does all steps of setup, and undoes them.

ORDER
    mailseal's files, keys, Dovecot's files; checks of Dovecot, mailseal and Postfix; services,
    restart of Dovecot; Postfix's files and reload; doctor.  Nothing that runs reads new files
    before the checks.  If a step fails, everything is undone.  After a kill, --undo does it.

FAILURES
    TemporaryError, ConfigError: a step failed; everything is as before.  Conflict: files were
    changed by somebody else, so nothing was undone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator

from mailseal import config as configuration
from mailseal import durable
from mailseal.admin.config_findings import FAMILIES, SOCKETS
from mailseal.admin.finding import ERROR
from mailseal.admin.setup import machine
from mailseal.admin.setup.changes import APPLIED, UNDOING, Entry, Journal
from mailseal.admin.setup.plan import UNITS, Command, Plan
from mailseal.delivery.dovecot.userdb import DovecotUserdb
from mailseal.doveconf import Doveconf
from mailseal.errors import ConfigError, Conflict, MailsealError, TemporaryError
from mailseal.keys.public import PublicStore
from mailseal.login import startup

_IN_MEMORY = ("/run/mailseal/cache", "/run/mailseal/tmp")
_PATIENCE = 30.0
_PAUSE = 0.1

Say = Callable[[str], None]
"""Tells people what is done now."""

Prove = Callable[[], None]
"""Runs doctor; raises MailsealError if mailseal does not work."""


def apply(plan: Plan, journal: Journal, config_path: str, prove: Prove, say: Say) -> None:
    """Do everything, or nothing.  The caller holds the journal's lock."""
    with _signals_raise():
        journal.begin(
            plan.changes,
            user=plan.user,
            units={unit: _state_of(unit) for unit in UNITS},
            postfix=plan.postfix.folder if plan.postfix else "",
            begun=[],
        )
        try:
            _steps(plan, journal, config_path, say)
            prove()
            journal.become(APPLIED)
        except BaseException as exc:
            say(f"failed: {exc or type(exc).__name__}; everything is undone")
            with _signals_wait():
                undo(journal, say)
            raise


def _steps(plan: Plan, journal: Journal, config_path: str, say: Say) -> None:
    commands = {command.line.split()[0]: command for command in plan.commands}
    if plan.user:
        say(f"makes the user {plan.user}")
        _begin(journal, "user")
        machine.run(commands["useradd"].line)
    say("writes files")
    journal.make_folders()
    journal.put("mailseal")
    config = configuration.load(config_path)
    startup.init(config)
    machine.run(commands["systemd-tmpfiles"].line)
    journal.put("dovecot")
    say("checks Dovecot's, mailseal's and Postfix's configuration")
    _check(config_path, journal)
    say("starts mailseal-agent and mailseal-lmtp, restarts Dovecot")
    _begin(journal, "units")
    for unit in UNITS:
        # One that runs already has read another configuration.
        machine.output("systemctl", "enable", unit)
        machine.output("systemctl", "restart", unit)
    _begin(journal, "dovecot")
    machine.run("systemctl restart dovecot")
    _wait_for_dovecot(config, plan)
    say("changes Postfix")
    _begin(journal, "postfix")
    journal.put("postfix")
    folder = journal.get("postfix")
    machine.output("postfix", "-c", folder, "check")
    machine.output("postfix", "-c", folder, "reload")


def _begin(journal: Journal, what: str) -> None:
    """Note before it is done that it has to be undone."""
    journal.note(begun=[*journal.get("begun"), what])


def _check(config_path: str, journal: Journal) -> None:
    """Raises ConfigError with the first error."""
    config, doveconf = configuration.load(config_path), Doveconf()
    for family in FAMILIES:
        if family.name == SOCKETS:
            continue
        for finding in family.find(config, doveconf):
            if finding.level == ERROR:
                raise ConfigError(finding.text, hint=finding.remedy or None)
    with tempfile.TemporaryDirectory(prefix="mailseal-setup-") as copy:
        for entry in journal.entries():
            after = entry.content("after")
            if entry.stage == "postfix" and after is not None:
                name = os.path.join(copy, os.path.basename(entry.path))
                durable.create(name, after.data, mode=0o644)
        machine.output("postfix", "-c", copy, "check")


def _wait_for_dovecot(config: configuration.Config, plan: Plan) -> None:
    source = DovecotUserdb(config, {})
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            if source.lookup(plan.stack.user) is not None:
                return
            raise TemporaryError(f"Dovecot does not know {plan.stack.user} any more")
        except TemporaryError:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE)


def enrolled(config_path: str) -> int:
    """The number of enrolled users, whose sealed mail needs mailseal."""
    try:
        return len(PublicStore(configuration.load(config_path).public_dir).users())
    except (MailsealError, OSError):
        return 0


def conflicts(journal: Journal) -> list[str]:
    """The files that cannot be changed back, because somebody has changed the same lines."""
    return [e.path for e in journal.entries() if not _is_kept(e) and not e.can_restore()]


def _is_kept(entry: Entry) -> bool:
    """mailseal.yaml with options of the administrator: without mailseal it does nothing."""
    new = entry.content("before") is None
    return entry.stage == "mailseal" and new and entry.state() == "changed"


def undo(journal: Journal, say: Say) -> None:
    """Change everything back.  If it is interrupted, it can be run again."""
    if wrong := conflicts(journal):
        raise Conflict(
            "these files were changed since, and were not changed back: " + ", ".join(wrong),
            hint=f"their former content is in {journal.folder}; change them by hand",
        )
    begun = journal.get("begun", [])
    journal.become(UNDOING)
    for entry in reversed(journal.entries()):
        if _is_kept(entry):
            say(f"{entry.path} has options of yours and is kept")
        elif journal.restore(entry) == "kept":
            say(f"{entry.path}: mailseal's lines are removed, your other changes are kept")
    Doveconf().settings()
    if "postfix" in begun:
        say("Postfix reads its former configuration")
        machine.output("postfix", "-c", journal.get("postfix"), "reload")
    if "dovecot" in begun:
        say("Dovecot is restarted with its former configuration")
        machine.run("systemctl restart dovecot")
    if "units" in begun:
        for unit, (was_enabled, was_active) in reversed(journal.get("units").items()):
            if not was_enabled:
                machine.output("systemctl", "disable", unit)
            machine.output("systemctl", "restart" if was_active else "stop", unit)
    if "dovecot" in begun:
        _empty(_IN_MEMORY)
    if "user" in begun and machine.status("id", journal.get("user")) == 0:
        machine.output("userdel", journal.get("user"))
    journal.end()


def _empty(folders: tuple[str, ...]) -> None:
    """Index caches and temporary files, with parts of mails.  Links are removed, not followed."""
    for folder in folders:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def undo_commands(commands: list[Command]) -> list[str]:
    """By hand, the last one first; after the files are as before."""
    return list(dict.fromkeys(command.undo for command in reversed(commands) if command.undo))


def _state_of(unit: str) -> tuple[bool, bool]:
    """Whether it is enabled, and whether it is running."""
    return (
        machine.status("systemctl", "is-enabled", "--quiet", unit) == 0,
        machine.status("systemctl", "is-active", "--quiet", unit) == 0,
    )


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """A signal that ends the program undoes everything first, as Ctrl-C does."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    with _handled(stop):
        yield


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    with _handled(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handled(handler: signal._HANDLER) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
