# SPDX-License-Identifier: MIT
"""verify.at_login: mailseal-sealer checks the tags of a user's mail while the user has a session.

The owner of the mail opens the files, and a process of the key agent, which has the keys of the
session, reads them (login/tag_checks.py).  So neither root nor the owner of the mail gets
keys.  If the session ends during a check, the check is repeated at a later session.

FAILURES
    None: they are logged.  Without the agent nothing is checked.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

from mailseal.admin.check_results import Check, Checks
from mailseal.admin.children import Children, disk_of
from mailseal.admin.mail_place import Place, Places
from mailseal.admin.verify_mail import Examination
from mailseal.admin.verify_result import Result
from mailseal.config import Config
from mailseal.errors import EX_TEMPFAIL, AgentUnavailable, MailsealError, UsageError
from mailseal.keys import record
from mailseal.login.client import AgentClient
from mailseal.logs import INFO, WARNING, Log
from mailseal.mailbox.examine import Expected

_FIRST = 86400
_MARGIN = 10
"""Seconds: how old a session may be at the first look, and how much looks overlap."""

_RETRY = 300
"""Seconds before another attempt after a failure."""

_PATIENCE = 3600.0
"""Seconds for one mail: the check has the lowest priority."""

_NAMED = 20


class SessionOver(Exception):
    """The agent has ended the check.  Not an error of one mail."""


class LoginChecks:
    """Finds users who have logged in, and checks their mail."""

    def __init__(self, config: Config, log: Log, is_busy: Callable[[str], bool]) -> None:
        """`is_busy`: whether the mail of a user is being sealed."""
        self._config = config
        self._every = config.verify.at_login or 0
        self._log = log
        self._is_busy = is_busy
        self._checks = Checks(config.checks_dir)
        self._checks.prepare()
        self._children = Children(on_one_disk=1)
        self._waiting: dict[str, float] = {}
        """For each user, the time before which nothing is done (monotonic)."""
        self._looked: float | None = None

    def look(self) -> None:
        """Start checks for users who have logged in since the last call."""
        for user, status in self._children.reap():
            if status:
                self._waiting[user] = time.monotonic() + _RETRY
        try:
            for user in self._logged_in():
                if self._is_due(user):
                    self._waiting.setdefault(user, 0.0)
        except MailsealError:
            return
        places: Places | None = None
        for user, begin in list(self._waiting.items()):
            if time.monotonic() < begin or self._is_busy(user) or self._children.has(user):
                continue
            if not self._is_due(user):
                del self._waiting[user]  # it was checked meanwhile
                continue
            try:
                places = places or Places(self._config)
                place = places.of(user)
                disk = disk_of(place.maildir)
                if not self._children.has_room(disk):
                    continue
                self._children.start(user, disk, functools.partial(self.check, user, place))
            except (MailsealError, OSError) as exc:
                self._log.write(WARNING, f"user=<{user}>, mail not checked: {exc}")
            del self._waiting[user]

    def stop(self) -> None:
        """End all checks."""
        self._children.stop()

    def _logged_in(self) -> list[str]:
        now = time.monotonic()
        newer = _FIRST if self._looked is None else int(now - self._looked) + _MARGIN
        with AgentClient(self._config.agent.socket) as agent:
            answer = agent.request("sessions", newer=b"%d" % newer)
        if answer.status != "ok":
            raise AgentUnavailable(answer.text("message"))
        self._looked = now
        found: list[str] = record.parse(answer.fields["users"])
        return found

    def _is_due(self, user: str) -> bool:
        last = self._checks.load(user)
        # A time in the future was saved before the clock was set back.
        return last is None or not 0 <= time.time() - last.when < self._every

    def check(self, user: str, place: Place) -> None:
        """Check one user's mail, and save the result."""
        with AgentClient(self._config.agent.socket, _PATIENCE) as agent:
            try:
                result = self._checked(agent, user, place)
            except UsageError:
                return  # the session has ended; the check is repeated at the next one
            except MailsealError as exc:
                self._log.write(WARNING, f"user=<{user}>, mail not completely checked: {exc}")
                raise SystemExit(EX_TEMPFAIL) from None
        counts = {kind: number for kind, number in result.counts.items() if number}
        self._checks.save(Check(user, int(time.time()), result.mails, counts))
        found = ", ".join(f"{kind}={number}" for kind, number in counts.items())
        self._log.write(
            WARNING if counts else INFO,
            f"user=<{user}>, mails={result.mails}, checked with the keys, {found or 'no problems'}",
        )
        for line in result.as_text().splitlines()[:_NAMED] if counts else ():
            self._log.write(WARNING, line)

    def _checked(self, agent: AgentClient, user: str, place: Place) -> Result:
        status = _ok(agent, "status", user)
        (entry,) = record.parse(status["users"])
        if "keys" not in entry:
            raise AgentUnavailable(str(entry.get("problem", "the keyring cannot be read")))
        _ok(agent, "check", user)

        def elsewhere(fd: int, name: str) -> tuple[str, str] | None:
            try:
                answer = agent.check_file(os.fsencode(name), fd)
            except MailsealError as exc:
                raise SessionOver(str(exc)) from None
            return None if answer.status == "ok" else (answer.text("kind"), answer.text("text"))

        key_ids = frozenset(bytes.fromhex(key["id"]) for key in entry["keys"])
        result = Result(user, tags=True)
        expected = Expected(key_ids, (), place.compressed, elsewhere)
        Examination(result, place, expected, 1).run([])
        return result


def _ok(agent: AgentClient, verb: str, user: str) -> dict[str, bytes]:
    answer = agent.request(verb, user=user.encode())
    if answer.status != "ok":
        message = answer.text("message") or answer.status
        raise (
            UsageError(message)
            if answer.text("class") == "UsageError"
            else AgentUnavailable(message)
        )
    return answer.fields
