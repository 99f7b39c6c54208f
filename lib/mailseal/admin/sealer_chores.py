# SPDX-License-Identifier: MIT
"""Requests of users that mailseal-sealer carries out: end sessions, store mail in clear.

    kick()           end sessions; returns the users who leave
    leave(user)      store a user's mail in clear, and remove the keys
    end_stranded()   end the suspension of users whose request does not exist any more

LEAVING
    1  the mail is stored in clear; the user can log in, and new mail is sealed.  If some mail
       cannot be stored in clear, the request is dropped, and the page says so
    2  new mail is deferred and logins fail temporarily; the user's sessions are ended
    3  mail that has arrived in the meantime is stored in clear
    4  if no sealed mail is left, the keys are removed; otherwise the user stays enrolled

    If this is killed, it begins again; in steps 2 and 3 mail is deferred until then.  If the agent
    has lost the request too, the suspension ends: it is on disk, but the request is not.  The
    private keys are in the memory of this process and of the one that works on the mail.

FAILURES
    None are raised: the log and the user's Job contain the reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mailseal.admin import sealed_mail, sessions
from mailseal.admin.command import error_of
from mailseal.admin.conversion import Conversion
from mailseal.admin.mail_place import Place, Places
from mailseal.admin.seal_jobs import OFF, UNSEALING, Job, Jobs
from mailseal.config import Config
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import MailsealError, NotEnrolled, TemporaryError
from mailseal.keys.public import PublicStore
from mailseal.login.client import AgentClient, Answer
from mailseal.login.hardening import forbid_dumps
from mailseal.logs import INFO, WARNING
from mailseal.mailbox.forms import Unseal

_TELL = 2.0
_RETRY = 60
_TIMEOUT = 30.0
_TRIES = 60
_PASSES = 3
_SHOWN = 5


class _Stays(Exception):
    """The user has cancelled the request."""


class _Impossible(Exception):
    """Some mail can never be stored in clear: trying again would not help."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{number} mails cannot be stored in clear; see the log")
        self.number = number


class _Done(NamedTuple):
    """What a run over the mail has found.  `left` mails are as they were; `stopped`: why early."""

    seen: int
    left: int
    stopped: str


class Chores:
    """The requests.  Nothing is stored: the agent is asked each time."""

    def __init__(self, config: Config, jobs: Jobs, log: Callable[[int, str], None]) -> None:
        self._config = config
        self._jobs = jobs
        self._log = log
        self._silent = False
        self._not_kicked: set[str] = set()
        """Lines of `chores` that the log has as failed."""
        self._watched: set[str] | None = None
        """Users who may be suspended because they leave; None: not looked up yet."""
        self._look_again = 0.0

    def is_due(self, user: str) -> bool:
        """Whether to begin now; not shortly after a failure."""
        job = self._jobs.load(user)
        again = job.again if job is not None and job.phase == UNSEALING else 0
        # If the clock was set back, do not wait longer because of it.
        return not 0 < again - time.time() <= _RETRY

    def kick(self) -> list[str]:
        """End the requested sessions; returns the users who leave."""
        if not self._config.agent.panel_users:
            return []
        try:
            reply = self._ask("chores")
        except MailsealError as exc:
            if not self._silent:
                self._log(WARNING, f"cannot ask the key agent: {exc}")
            self._silent = True
            return []
        self._silent = False
        kicked = []
        for line in filter(None, reply.text("kick").split("\n")):
            user = line.partition(" ")[2]
            try:
                sessions.kick(user)
                kicked.append(line)
            except MailsealError as exc:
                if line not in self._not_kicked:
                    self._not_kicked.add(line)
                    self._log(WARNING, f"user=<{user}>, sessions not ended yet: {exc}")
        self._not_kicked.difference_update(kicked)
        if kicked:
            with contextlib.suppress(MailsealError):  # then they are ended once more
                self._ask("kicked", kick="\n".join(kicked).encode())
        return list(filter(None, reply.text("leave").split("\n")))

    def _ask(self, verb: str, **fields: bytes) -> Answer:
        with AgentClient(self._config.agent.socket, _TIMEOUT) as agent:
            reply = agent.request(verb, **fields)
        if reply.status != "ok":
            raise error_of(reply)
        return reply

    def leave(self, user: str) -> None:
        """See the module's docstring."""
        forbid_dumps()
        job = self._jobs.load(user) or Job(user)
        job = dataclasses.replace(job, phase=UNSEALING, done=0, total=0, left=0, rate=0.0)
        job = dataclasses.replace(job, problem="")
        try:
            reply = self._ask("leave_keys", user=user.encode())
            keys = [PrivateKey.parse(line) for line in reply.text("keys").split("\n")]
            place = Places(self._config).of(user)
            # Before logins are suspended: Dovecot's user database may be the keyrings themselves.
            folders, doubt = sealed_mail.folders_of(self._config, user)
            if doubt:
                raise TemporaryError(doubt)
            done = self._all_in_clear(job, place, keys, folders)
            self._remove(job, place, keys, folders, reply.fields["request"])
        except _Stays:
            self._log(INFO, f"user=<{user}>, stays")
        except _Impossible as exc:
            self._log(WARNING, f"user=<{user}>, leaves, given up: {exc}")
            self._save(dataclasses.replace(job, problem=str(exc), left=exc.number, again=0))
            with contextlib.suppress(MailsealError):
                self._ask("leave_failed", user=user.encode(), request=reply.fields["request"])
        except MailsealError as exc:
            self._log(WARNING, f"user=<{user}>, leaves, postponed: {exc}")
            again = int(time.time()) + _RETRY
            self._save(dataclasses.replace(job, problem=str(exc), again=again))
        else:
            now = int(time.time())
            self._save(dataclasses.replace(job, phase=OFF, done=done, total=done, again=0, at=now))
            self._log(INFO, f"user=<{user}>, has left, mails in clear={done}")

    def _all_in_clear(
        self, job: Job, place: Place, keys: Sequence[PrivateKey], folders: Sequence[str]
    ) -> int:
        """The number of mails, when only mail that has just arrived may be sealed.

        Otherwise the user would be suspended in vain, and again with each try.
        """
        sealed = 0
        for _ in range(_PASSES):
            done = self._in_clear(job, place, keys)
            if done.stopped:
                raise TemporaryError(done.stopped)
            sealed = sealed_mail.total(place.owner, folders)
            if not sealed:
                return done.seen
            if done.left:
                break
        raise _Impossible(sealed)

    def _in_clear(self, job: Job, place: Place, keys: Sequence[PrivateKey]) -> _Done:
        options = self._config.seal
        work = Conversion("unsealing", jobs=options.processes, rate=options.limit_rate or 0)
        begun = told = time.monotonic()
        self._save(job)
        seen = left = 0
        stopped = ""
        messages = work.messages(job.user, place, Unseal(keys))
        with contextlib.closing(messages):  # type: ignore[type-var]
            for message in messages:
                if "done" not in message:
                    counted = ("converted", "already", "left")
                    seen += sum(message.get(name, 0) for name in counted)
                    left += message.get("left", 0)
                    stopped = stopped or message.get("stopped", "")
                    for path, why in message.get("problems", ())[:_SHOWN]:
                        self._log(WARNING, f"user=<{job.user}>, not in clear: {path}: {why}")
                elif time.monotonic() - told >= _TELL:
                    told = time.monotonic()
                    if job.user not in self.kick():
                        raise _Stays
                    done, total = message["done"], message["total"]
                    rate = round(done / (told - begun), 1)
                    self._save(dataclasses.replace(job, done=done, total=total, rate=rate))
        return _Done(seen, left, stopped)

    def _remove(
        self,
        job: Job,
        place: Place,
        keys: Sequence[PrivateKey],
        folders: Sequence[str],
        request: bytes,
    ) -> None:
        user = job.user.encode()
        try:
            # Even if this fails, the suspension may be stored.
            with contextlib.suppress(NotEnrolled):
                self._ask("suspend", user=user)
            sessions.kick(job.user)
            time.sleep(sessions.UNDER_WAY)
            self._in_clear(job, place, keys)
            if left := sealed_mail.total(place.owner, folders):
                raise TemporaryError(f"{left} mails could not be stored in clear")
            try:
                self._ask("leave_done", user=user, request=request)
            except NotEnrolled:
                raise _Stays from None
        except BaseException:
            self._resume(user)
            raise

    def _resume(self, user: bytes) -> None:
        """End the suspension.  The agent may be restarting: the user must not stay locked out."""
        for last in (False,) * _TRIES + (True,):
            try:
                self._ask("repair", user=user)
            except NotEnrolled:
                return
            except MailsealError:
                if last:
                    raise
                time.sleep(1)
            else:
                return

    def watch(self, user: str) -> None:
        """A process for this user begins, and may be killed while the user is suspended."""
        if self._watched is not None:
            self._watched.add(user)

    def end_stranded(self, leaving: Sequence[str], works_on: Callable[[str], bool]) -> None:
        """End the suspension of users who do not leave any more.  Only after kick()."""
        if self._silent or not self._config.agent.panel_users:
            return  # the agent has not said who leaves
        try:
            if self._watched is None:
                self._watched = {job.user for job in self._jobs.all() if job.phase == UNSEALING}
        except MailsealError as exc:
            self._log(WARNING, str(exc))
            return
        if time.monotonic() < self._look_again:
            return
        public = PublicStore(self._config.public_dir)
        for user in [u for u in self._watched if u not in leaving and not works_on(u)]:
            try:
                if public.is_suspended(user):
                    self._log(WARNING, f"user=<{user}>, suspended, but does not leave: resumed")
                    with contextlib.suppress(NotEnrolled):
                        self._ask("repair", user=user.encode())
                self._watched.discard(user)
            except MailsealError as exc:
                self._log(WARNING, f"user=<{user}>, still suspended: {exc}")
                self._look_again = time.monotonic() + _RETRY

    def _save(self, job: Job) -> None:
        try:
            self._jobs.save(job)
        except MailsealError as exc:
            self._log(WARNING, f"user=<{job.user}>, cannot record the progress: {exc}")
