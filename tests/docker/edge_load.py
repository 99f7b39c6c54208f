# SPDX-License-Identifier: MIT
"""What users and senders do during the soak on four hosts (test_edge_soak.py).

    mail       arrives at both MX hosts; a sender tries again, at the other one, until one takes it
    logins     by IMAP, on the host of each user; they read a mail, and sometimes save one in Sent
    changes    users are enrolled one after the other; passwords are changed in both places; app
               passwords are made and revoked; sessions are ended

While something is killed, each of these may fail temporarily.  `problems` has what must never
happen: mail that is refused, a right password that is called wrong, a revoked one that opens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import re
import smtplib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tests.docker.edge import Host
from tests.docker.site import CommandFailed, password_of
from tests.docker.test_mail import SENDER, a_mail, fresh_word
from tests.lab.imap import Imap, Refused
from tests.lab.smtp import Rejected, send

_SET_HASH = "/usr/local/lib/mailseal/hooks/mailseal-set-hash"
_TEMPORARY = (69, 75, 76)  # nothing changed; a temporary failure; not settled yet: errors.py
_ALREADY = 65
_FULL = 100
"""Mails in a queue: senders wait until Postfix has delivered some."""

_PATIENCE = 300.0
"""Seconds until a sender gives up."""


@dataclasses.dataclass
class User:
    """`lock` is held by the one who changes something, or uses the password."""

    name: str
    host: Host
    sieve: bool = False
    enrolled: bool = False
    """Whether `mailseal enroll` has ended with status 0, or said that it was done before."""
    password: str = ""
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.password = password_of(self.name)

    @property
    def address(self) -> str:
        return f"{self.name}@example.org"


@dataclasses.dataclass
class Mail:
    """One mail that was sent, or saved in Sent."""

    user: User
    by: str
    """The first MX host that was tried; or empty, if the user saved it."""
    sealed: bool
    """Whether the user was enrolled before it was sent: then it must never be in clear."""
    began: float = dataclasses.field(default_factory=time.time)
    word: str = dataclasses.field(default_factory=fresh_word)
    data: bytes = b""
    accepted: bool = False
    unclear: int = 0
    """Attempts whose reply was lost.  The server may have the mail nevertheless."""

    def __post_init__(self) -> None:
        self.data = a_mail(self.word)


class Load:
    """Runs everything in threads, in `with load:`."""

    def __init__(
        self, users: Sequence[User], newcomers: Sequence[User], mx: Sequence[Host], seconds: float
    ) -> None:
        self.users, self.mx = users, mx
        self.mails: list[Mail] = []
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        """Temporary failures, by what was tried."""
        self.problems: list[str] = []
        hosts = {user.host.name: user.host for user in users}.values()
        jobs: list[Callable[[], None]] = [partial(self._send_all, at) for at in mx]
        for host in hosts:
            theirs = [user for user in users if user.host is host]
            new = [user for user in newcomers if user.host is host]
            jobs.append(partial(self._log_in, theirs))
            jobs.append(partial(self._change, theirs))
            jobs.append(partial(self._enroll, new, 0.8 * seconds / max(len(new), 1)))
        self._counting = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._guarded, args=(job,)) for job in jobs]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as exc:
            self.problems.append(f"a part of the test ended: {exc!r}")

    def _count(self, what: str) -> None:
        with self._counting:
            self.counts[what] += 1

    def _failed(self, what: str) -> None:
        with self._counting:
            self.failures[what] += 1

    # Mail.

    def _send_all(self, at: Host) -> None:
        for number in itertools.count(1):
            if self._end.wait(0.1):
                return
            user = random.choice(self.users)
            mail = Mail(user, at.name, user.enrolled)
            self.mails.append(mail)
            self._send(mail, at)
            self._count("mails")
            while not number % 50 and _queued(at) > _FULL and not self._end.wait(1):
                pass

    def _send(self, mail: Mail, at: Host) -> None:
        """Send it as a mail server does: again, until there is an answer for good."""
        while time.time() < mail.began + _PATIENCE:
            try:
                send(at.smtp, SENDER, [mail.user.address], mail.data)
            except Rejected as exc:
                if 500 <= exc.code < 600:
                    self.problems.append(f"{mail.user.name}: {at.name} refused a mail: {exc}")
                    return
            except ConnectionRefusedError:
                pass
            except (smtplib.SMTPException, OSError):
                mail.unclear += 1
            else:
                mail.accepted = True
                return
            self._failed("SMTP")
            at = next(other for other in self.mx if other is not at)
            time.sleep(0.2)
        self.problems.append(f"{mail.user.name}: no MX host took a mail for {_PATIENCE:.0f} s")

    # Logins.

    def _log_in(self, users: Sequence[User]) -> None:
        while not self._end.wait(0.1):
            with _one_of(users) as user:
                if user is not None and self._session(user, user.password, save=True) == "ok":
                    self._count("logins")

    def _session(self, user: User, password: str, *, save: bool = False) -> str:
        """Log in and read the newest mail: "ok", "wrong", or "temporary"."""
        try:
            with Imap(user.host.imap, user.address, password) as imap:
                last = imap.select()
                if last and b"the tangerine" not in imap.body(last):
                    self.problems.append(f"{user.name}: a mail has other bytes")
                if save and random.random() < 0.1:
                    self._save(user, imap)
        except Refused as exc:
            if "AUTHENTICATIONFAILED" in str(exc):
                if password == user.password:
                    self.problems.append(f"{user.name}: WRONG PASSWORD at {user.host.name}: {exc}")
                return "wrong"
        except OSError:
            pass
        else:
            return "ok"
        self._failed("IMAP")
        return "temporary"

    def _save(self, user: User, imap: Imap) -> None:
        mail = Mail(user, "", user.enrolled)
        self.mails.append(mail)
        imap.append("Sent", mail.data)
        mail.accepted = True
        self._count("saved")

    # Changes.

    def _enroll(self, users: Sequence[User], pause: float) -> None:
        for user in users:
            with user.lock:
                secret = f"{user.password}\n"
                while self._run(user, f"enroll {user.address} --stdin", secret)[0]:
                    if self._end.wait(0.5):
                        return
                user.enrolled = True
            self._count("enrollments")
            if self._end.wait(pause):
                return

    def _change(self, users: Sequence[User]) -> None:
        changes = itertools.cycle((self._passwd, self._app_password, self._passwd, self._lock))
        while not self._end.wait(0.5):
            with _one_of([user for user in users if user.enrolled]) as user:
                if user is not None:
                    next(changes)(user)

    def _passwd(self, user: User) -> None:
        new = f"{user.name} {fresh_word()}"
        command = f"passwd {user.address} --stdin --then {_SET_HASH} {user.address}"
        failed, _ = self._run(user, command, f"{user.password}\n{new}\n")
        # After a failure: the password that the user database has is the right one.
        if failed and user.host.status(_has_password(user.address, new)):
            return
        user.password = new
        time.sleep(1.1)  # Dovecot looks at the file's time once a second
        self._count("password changes")

    def _app_password(self, user: User) -> None:
        command = f"app-password {user.address} phone --stdin"
        failed, said = self._run(user, command, f"{user.password}\n")
        if failed:
            return
        (slot,) = re.findall(r"slot (\w+);", said)
        (code,) = [line for line in said.splitlines() if not line.startswith("mailseal:")]
        if self._session(user, code) == "wrong":
            self.problems.append(f"{user.name}: WRONG PASSWORD for an app password")
        failed, _ = self._run(user, f"revoke {user.address} {slot}")
        if failed:
            return
        if self._session(user, code) == "ok":
            self.problems.append(f"{user.name}: a revoked app password still works")
        self._count("revocations")

    def _lock(self, user: User) -> None:
        failed, _ = self._run(user, f"lock {user.address}")
        if not failed:
            self._count("locks")

    def _run(self, user: User, command: str, stdin: str = "") -> tuple[bool, str]:
        """Run mailseal on the user's host: whether it failed temporarily, and what it said."""
        said = user.host.run(f"mailseal {command} 2>&1 || echo $?", stdin=stdin.encode())
        status = int(said.split()[-1]) if re.search(r"^\d{1,3}\n\Z", said, re.M) else 0
        if status == _ALREADY and command.startswith("enroll ") and "already enrolled" in said:
            return False, said  # an attempt before has failed only when it waited for all hosts
        if status not in (0, *_TEMPORARY):
            self.problems.append(f"mailseal {command} ended with {status}: {said}")
        if status:
            self._failed("commands")
        return bool(status), said


def _queued(at: Host) -> int:
    """The number of mails in the queue; 0 while Postfix was killed."""
    with contextlib.suppress(CommandFailed):
        return len(at.queue())
    return 0


@contextlib.contextmanager
def _one_of(users: Sequence[User]) -> Iterator[User | None]:
    """A user with whom nobody else does anything; None if there is none now."""
    user = random.choice(users) if users else None
    if user is None or not user.lock.acquire(blocking=False):
        yield None
        return
    try:
        yield user
    finally:
        user.lock.release()


def _has_password(address: str, password: str) -> str:
    """A command that fails if the user database has another password."""
    found = f'"$(grep ^{address}: /etc/dovecot/users | cut -d: -f2)"'
    return f"doveadm pw -t {found} -p '{password}'"
