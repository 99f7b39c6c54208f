# SPDX-License-Identifier: MIT
"""`make soak-index`: users log in and out at random while servers are killed.

    python -m tests.e2e.index_soak [SECONDS [USERS]]

Several clients deliver mail all the time, by LMTP, and one by SMTP.  At random the agent, Dovecot,
anvil or an imap process is killed, and the machine's caches are dropped.  Each listing must show
all mails that have arrived, each one time.  Checked every second: an index folder is open only if
its user has a connection, or had one in the last `window` seconds.  Checked at the end: no key is
left in the kernel, and the caches in memory are removed or within their limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import signal
import sys
import threading
import time
from collections import Counter

from mailseal.errors import TemporaryError
from mailseal.index import memory
from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from mailseal.login import anvil
from tests.lab import Imap, Lab, LabError, Refused
from tests.lab.dovecot import series
from tests.lab.place import MAIL_UID
from tests.lab.process import interrupt_on_signals
from tests.lab.smtp import send, send_lmtp
from tests.lab.volume import encrypting_volume

LOCK_AFTER = 5.0
WINDOW = LOCK_AFTER + 10
"""Seconds for which a folder may be open without a connection, as docs/index-privacy.md says.  The
time starts again when an agent is started, because it may have to wait for a login that the
previous agent has answered, and when Dovecot is started: while anvil cannot be asked, no folder is
locked."""

CACHE_LIMIT = 4 << 20
DELIVERING = 4
"""Clients that deliver by LMTP; together about 30 mails a second."""

_DOWN = (Refused, OSError, LabError)


class Soak:
    """One run."""

    def __init__(self, lab: Lab, volume: str, users: list[str]) -> None:
        self.lab = lab
        self.users = users
        self.folders = Folders(f"{volume}/index", MAIL_UID)
        self.sent: Counter[str] = Counter()
        self.arrived: dict[str, set[int]] = {user: set() for user in users}
        self.connected: Counter[str] = Counter()
        self.last: dict[str, float] = {}
        self.lock = threading.Lock()
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.started = 0.0
        self.kills: list[tuple[float, str]] = []
        self.anvil_killed = 0.0
        self.longest = 0.0
        self.largest = 0
        self.end = 0.0
        self.ended = math.inf

    def run(self, seconds: float, clients: int) -> None:
        self.end = time.monotonic() + seconds
        watch = threading.Thread(target=self._guarded, args=(self._watch,))
        jobs = [self._send, *[self._deliver] * DELIVERING, self._kill, *[self._client] * clients]
        threads = [threading.Thread(target=self._guarded, args=(job,)) for job in jobs]
        for thread in (watch, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        self.ended = time.monotonic()
        watch.join()

    def _guarded(self, job: object) -> None:
        try:
            job()  # type: ignore[operator]
        except Exception as exc:
            self.wrong.append(f"{getattr(job, '__name__', job)}: {exc!r}")

    def _going(self) -> bool:
        return time.monotonic() < self.end

    def _client(self) -> None:
        while self._going():
            user = random.choice(self.users)
            began = time.monotonic()
            with self.lock:
                before = set(self.arrived[user])
                self.connected[user] += 1
            try:
                self._session(user, before)
            except _DOWN as exc:
                self.done["refused"] += 1
                self._explain(user, exc, began)
            finally:
                with self.lock:
                    self.connected[user] -= 1
                    self.last[user] = time.monotonic()
            time.sleep(random.uniform(0, 0.5))

    def _explain(self, user: str, exc: Exception, began: float) -> None:
        """A killed server ends a connection; no server may answer NO to a SELECT or FETCH.

        But for connections that had no mailbox open when anvil was killed: nobody knows them.
        """
        if "SERVERBUG" in str(exc) and began < self.anvil_killed:
            self.done["refused, unknown to anvil"] += 1
        elif "SERVERBUG" in str(exc):
            self.wrong.append(f"{user}: {exc}")

    def _session(self, user: str, before: set[int]) -> None:
        with Imap(self.lab.imap, user, "password") as imap:
            self.done["logins"] += 1
            for _ in range(random.choice((1, 1, 1, 3))):
                count = imap.select()
                shown = []
                if count:
                    for line in imap.command(b"FETCH 1:* (ENVELOPE)"):
                        if b"ENVELOPE" in line:
                            shown.append(line.split(b'"')[3].decode())
                numbers = [int(subject.rpartition(" ")[2]) for subject in shown]
                if lost := before.difference(numbers):
                    self.wrong.append(f"{user}: mails {sorted(lost)} are not listed")
                if len(set(numbers)) < len(numbers) or max(numbers, default=0) > self.sent[user]:
                    self.wrong.append(f"{user}: listed {sorted(numbers)}")
                self.done["listings"] += 1
                time.sleep(random.choice((0, 0, 0.2, WINDOW + 2 if random.random() < 0.05 else 0)))

    def _mail(self) -> tuple[str, int, bytes]:
        """A user, the number of the mail, and the mail."""
        user = random.choice(self.users)
        with self.lock:
            self.sent[user] += 1
            number = self.sent[user]
        mail = (
            f"Date: Fri, 27 Nov 2026 12:00:00 +0000\nFrom: eve@example.net\nTo: {user}\n"
            f"Subject: Number {number}\n\n" + "Text\n" * random.choice((1, 100, 3000))
        )
        return user, number, mail.encode()

    def _note(self, user: str, number: int, how: str) -> None:
        with self.lock:
            self.arrived[user].add(number)
            self.done[f"mails by {how}"] += 1

    def _deliver(self) -> None:
        """By LMTP: mail that mailseal-lmtp has accepted must be listed from then on."""
        while self._going():
            user, number, mail = self._mail()
            while (reply := send_lmtp(self.lab.lmtp, "eve@example.net", [user], mail)[0])[0] != 250:
                if reply[0] >= 500:
                    self.wrong.append(f"{user}: mail {number} was refused: {reply}")
                    break
                self.done["mails deferred"] += 1
                time.sleep(0.2)
            else:
                self._note(user, number, "LMTP")
            time.sleep(random.uniform(0, 0.2))

    def _send(self) -> None:
        while self._going():
            user, number, mail = self._mail()
            send(self.lab.smtp, "eve@example.net", [user], mail)
            self._wait_delivered()
            self._note(user, number, "SMTP")

    def _wait_delivered(self) -> None:
        """Retry at once: Postfix waits longer after each failure of a server."""
        deadline = time.monotonic() + 120
        while True:
            try:
                return self.lab.wait_delivered(timeout=5)
            except LabError:
                if time.monotonic() > deadline:
                    raise
                self.lab.postfix.flush()

    def _kill(self) -> None:
        kinds = ["agent", "restart agent", "imap", "imap", "imap", "dovecot", "anvil", "caches"]
        names = {"caches": "dropped caches", "restart agent": "restarted agent"}
        while self._going():
            time.sleep(random.uniform(1, 5))
            kind = random.choice(kinds)
            what = names.get(kind, f"killed {kind}")
            self.done[what] += 1
            self.kills.append((time.monotonic(), what))
            with contextlib.suppress(ProcessLookupError):
                self._kill_one(kind)

    def _kill_one(self, kind: str) -> None:
        lab = self.lab
        if kind == "agent":
            lab.agent.stop(signal.SIGKILL)
            lab.start_agent()
            self.started = time.monotonic()
        elif kind == "restart agent":
            lab.restart_agent()
            self.started = time.monotonic()
        elif kind == "dovecot":
            self.started = math.inf
            lab.dovecot.restart()
            self.started = time.monotonic()
        elif kind == "caches":
            os.sync()
            with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as stream:
                stream.write("2")
        elif pids := lab.dovecot.processes(kind):
            if kind == "anvil":
                self.anvil_killed = time.monotonic()
            os.kill(random.choice(pids), signal.SIGKILL)

    def _watch(self) -> None:
        """Check the folders until some time after the last session, when all must be locked."""
        while time.monotonic() < self.ended + WINDOW:
            now = time.monotonic()
            for user in self.users:
                found = self.folders.state(folder_name(user))
                with self.lock:
                    since = max(self.last.get(user, now), self.started)
                    away = 0.0 if self.connected[user] else max(0.0, now - since)
                if found and found[1] is State.PRESENT and away:
                    self.longest = max(self.longest, away)
                    if away > WINDOW:
                        self.wrong.append(
                            f"{user}: open {away:.1f} s after the last one; {self._why(user)}"
                        )
            size = sum(one.size for one in memory.measure(self.lab.place.quick_path("cache")))
            self.largest = max(self.largest, size)
            time.sleep(1)

    def _why(self, user: str) -> str:
        """What may have kept a folder open: Dovecot's answer, and what was killed before."""
        lab, now = self.lab, time.monotonic()
        path = os.path.join(lab.dovecot.wanted.base_dir, "mailseal-anvil")
        try:
            named = asyncio.run(anvil.logged_in(path, series(lab.dovecot.version)))
        except TemporaryError as exc:
            says = str(exc)
        else:
            says = f"anvil knows {'a' if user in named else 'no'} connection"
        kills = [f"{what} {now - at:.1f} s ago" for at, what in self.kills if now - at < 30]
        return "; ".join([says, *kills])

    def verdict(self) -> dict[str, object]:
        """Counts of what was done, and the checks that failed."""
        states = {user: self.folders.state(folder_name(user)) for user in self.users}
        left = [user for user, found in states.items() if found and found[1] is not State.ABSENT]
        if left:
            self.wrong.append(f"keys left in the kernel: {left}")
        if self.largest > 2 * CACHE_LIMIT:
            self.wrong.append(f"caches in memory had {self.largest} bytes")
        return {
            "done": dict(self.done),
            "longest_open_without_connection_s": round(self.longest, 1),
            "window_s": WINDOW,
            "keys_left": len(left),
            "largest_cache_in_memory_kib": self.largest >> 10,
            "wrong": self.wrong[:20],
        }


def main(arguments: list[str]) -> int:
    """Print JSON; the exit status is 1 if a check failed."""
    interrupt_on_signals()
    seconds = float(arguments[0]) if arguments else 600
    count = int(arguments[1]) if len(arguments) > 1 else 300
    users = [f"soak{number}@example.org" for number in range(count)]
    try:
        with encrypting_volume(1 << 30) as volume:
            extra = {
                "index.folder": f"{volume}/index",
                "index.lock_after": f"{LOCK_AFTER:.0f}s",
                "index.cache_total": CACHE_LIMIT,
            }
            with Lab(dict.fromkeys(users, "password"), config_extra=extra) as lab:
                soak = Soak(lab, volume, users)
                soak.run(seconds, clients=8)
                verdict = soak.verdict()
                errors = Counter(
                    line.split("Error: ")[1][:60]
                    for line in lab.dovecot.log_text().splitlines()
                    if "Error: " in line
                )
                verdict["dovecot_errors"] = dict(errors.most_common(12))
    except LabError as exc:
        sys.stderr.write(f"mailseal: error: {exc}\n")
        return 1
    json.dump(verdict, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 1 if verdict["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
