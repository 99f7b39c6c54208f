# SPDX-License-Identifier: MIT
"""make soak-hosts: two hosts with PostgreSQL and a standby; every part fails in turn.

    SOAK_SECONDS   how long it runs (600)

Meanwhile mail arrives on both hosts, users log in, users are enrolled and passwords changed.
Checked at the end: no mail is lost, no mail that was sent after an enrollment is in clear, and no
acknowledged change is lost.  The exit status is 1 if a check fails.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from mailseal import database_address
from mailseal.errors import MailsealError
from mailseal.keys.sql import schema
from mailseal.keys.sql.database import Database
from tests.e2e.two_hosts import Host, add, deliver, in_clear, made
from tests.lab.clusters import Keys
from tests.lab.databases import Postgresql
from tests.lab.place import LabError
from tests.lab.process import Server, wait_until


class Soak:
    """The load, and what was acknowledged."""

    def __init__(self, hosts: tuple[Host, Host]) -> None:
        self.hosts = hosts
        self.end = threading.Event()
        self.enrolled: dict[str, float] = {}
        self.password: dict[str, bytes] = {}
        self.sent: dict[tuple[int, str], int] = {}
        self.counts = {"mails": 0, "logins": 0, "refused": 0, "changes": 0, "wrong": 0}
        self.users = [f"soak{number}@example.org" for number in range(60)]
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def mails(self) -> None:
        """Each mail says whether its recipient was enrolled when it was sent."""
        for count in itertools.count(1):
            if self.end.is_set():
                return
            while not count % 20 and not self.end.is_set() and self._is_behind():
                time.sleep(1)
            number, user = random.randrange(2), random.choice(self.users)
            when = "after" if user in self.enrolled else "before"
            deliver(self.hosts[number].lab, user, when)
            with self._lock:
                self.sent[number, user] = self.sent.get((number, user), 0) + 1
            self.count("mails")
            time.sleep(0.05)

    def _is_behind(self) -> bool:
        return any(len(host.lab.postfix_queue()) > 50 for host in self.hosts)

    def enrollments(self) -> None:
        """Enroll a user every few seconds, on either host; retried until acknowledged."""
        for user in self.users:
            while not self.end.is_set():
                host = random.choice(self.hosts)
                with contextlib.suppress(MailsealError):
                    answer = host.ask("enroll", user=user.encode(), password=b"password")
                    done = answer.status == "ok" or answer.text("class") == "AlreadyEnrolled"
                    if done:
                        self.password[user] = b"password"
                        self.enrolled[user] = time.time()
                        self.count("changes")
                        break
                time.sleep(0.5)
            if self.end.wait(2):
                return

    def logins(self) -> None:
        """Log in with the password acknowledged last: it must be right on each host."""
        while not self.end.wait(0.05):
            known = list(self.password)
            if not known:
                continue
            user = random.choice(known)
            password = self.password[user]
            with contextlib.suppress(MailsealError):
                status = random.choice(self.hosts).unlock(user, password)
                if status == "wrong" and self.password.get(user) == password:
                    self.count("wrong")
                self.count("logins" if status == "ok" else "refused")

    def passwords(self) -> None:
        for number in itertools.count():
            if self.end.wait(1):
                return
            known = list(self.password)
            if not known:
                continue
            user, new = random.choice(known), str(number).encode()
            # No login while it is not known which password is right.
            old = self.password.pop(user)
            with contextlib.suppress(MailsealError):
                host = random.choice(self.hosts)
                answer = host.ask("passwd", user=user.encode(), old=old, new=new)
                if answer.status == "ok":
                    self.count("changes")
                    self.password[user] = new
                    continue
            while not self.end.wait(0.5) and user not in self.password:
                for word in (new, old):
                    with contextlib.suppress(MailsealError):
                        if host.unlock(user, word) == "ok":
                            self.password[user] = word
                            break


def faults(
    hosts: tuple[Host, Host], first: Postgresql, second: Postgresql
) -> Iterator[tuple[str, Callable[[], object]]]:
    """One fault after the other, without end; after the first round the database fails over."""
    for round_ in itertools.count():
        for name, host in zip(("one", "two"), hosts, strict=True):
            lab = host.lab
            yield f"{name}: agent killed", partial(_again, lab.agent, lab.start_agent)
            yield f"{name}: replica killed", partial(_again, lab.replica, lab.start_replica)
            yield f"{name}: replica stopped", partial(_pause, lab.replica.pid, 12)
            yield f"{name}: cut off", partial(_pause, host.way.pid, 12)
            yield f"{name}: mailseal-lmtp killed", partial(_again, lab.delivery, lab.start_delivery)
            yield f"{name}: Dovecot stopped", lab.dovecot.stop
            yield f"{name}: Dovecot started", lab.dovecot.start
        if round_ == 0:
            yield "database killed", partial(_again, first, first.start)
            yield "database killed, for good", partial(first.stop, signal.SIGKILL)
            yield "the standby takes over", second.promote


def _again(server: Server | Postgresql, start: Callable[[], None]) -> None:
    server.stop(signal.SIGKILL)
    start()


def _pause(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


def _flushed(host: Host) -> bool:
    if not host.lab.postfix_queue():
        return True
    host.lab.postfix.flush()
    time.sleep(3)
    return False


def judge(soak: Soak) -> list[str]:
    """The checks that failed."""
    found = [f"{soak.counts['wrong']} logins were wrong"] if soak.counts["wrong"] else []
    doubled = 0
    for (number, user), count in soak.sent.items():
        lab = soak.hosts[number].lab
        there = len(lab.stored(user))
        doubled += max(0, there - count)
        if there < count:
            found.append(f"host {number}, {user}: {count} mails sent, {there} there")
        clear = [mail for mail in in_clear(lab, user) if b"Subject: after" in mail]
        if clear:
            found.append(f"host {number}, {user}: {len(clear)} IN CLEAR")
    for user, password in soak.password.items():
        for host in soak.hosts:
            if host.unlock(user, password) != "ok":
                found.append(f"{user} cannot log in")
    sys.stdout.write(f"{soak.counts}, enrolled {len(soak.enrolled)}, doubled {doubled}\n")
    return found


def main() -> int:
    seconds = float(os.environ.get("SOAK_SECONDS", "600"))
    with contextlib.ExitStack() as last, tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.chmod(folder, 0o755)
        first = Postgresql(f"{folder}/a", f"{folder}/1", f"{folder}/a.log")
        last.callback(first.stop)
        url = f"postgresql://postgres@/postgres?host={first.connect['host']}"
        schema.migrate(Database(database_address.parse(url), any_schema=True))
        keys = Keys(first, url)
        keys.with_roles()
        second = Postgresql(f"{folder}/b", f"{folder}/2", f"{folder}/b.log", standby_of=first)
        last.callback(second.stop)
        servers = [server.connect["host"] for server in (first, second)]
        hosts = tuple(
            last.enter_context(made(keys, folder, name, servers)) for name in ("one", "two")
        )
        assert len(hosts) == 2
        soak = Soak(hosts)
        for user in soak.users:
            for host in hosts:
                host.lab.users[user] = "password"
        add(hosts, soak.users[0])
        jobs = [soak.mails, soak.mails, soak.enrollments, soak.logins, soak.logins, soak.passwords]
        threads = [threading.Thread(target=job) for job in jobs]
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        for what, do in faults(hosts, first, second):
            if time.monotonic() > until:
                break
            sys.stdout.write(f"{what}\n")
            sys.stdout.flush()
            do()
            time.sleep(3)
        time.sleep(10)
        soak.end.set()
        for thread in threads:
            thread.join()
        for host in hosts:
            try:
                wait_until(partial(_flushed, host), "the queue is empty", timeout=300)
            except LabError:
                deferred = [x for x in host.lab.log_text().splitlines() if "=deferred" in x]
                sys.stdout.write("\n".join(deferred[-5:]) + "\n")
        problems = judge(soak)
    for problem in problems:
        sys.stdout.write(f"PROBLEM: {problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
