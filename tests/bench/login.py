# SPDX-License-Identifier: MIT
"""The time of a login: with mailseal, and with a passwd-file alone.

All servers run at the same time and take turns after each login, so that other work on the
machine affects all of them.  A login is measured from LOGIN to OK on an open
connection.  Argon2id is the standard profile, 64 MiB.

Part of the time is that of Dovecot's own plugin: so there is also a Dovecot without mailseal that
loads mail_crypt, and one in which mail_crypt has a key, as for an enrolled user.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey
from tests.bench import peers
from tests.bench.peers import DovecotPeer
from tests.lab import ALICE, BOB, Imap, Lab, Refused
from tests.lab.dovecot import installed_version, series
from tests.lab.place import REPOSITORY, Place

Say = Callable[[str], None]
Address = tuple[str, int]
Door = tuple[Address, str, str]
"""Where, user and password."""
PASSWORD = "password"
DOORS = {
    "2.3": {"": "mailseal-only-checkpassword", "_lua": "mailseal-only"},
    "2.4": {"_lua": "mailseal-only"},
}
"""For each version of Dovecot, the ways to ask the agent, as in the names of the figures."""
# Dovecot delays clients after wrong passwords; the lab turns this off.
WRONG_A_MINUTE = 1000

PLAIN = "plain@example.org"
"""A user who is not enrolled."""

LIMITS = {
    "repeated_login_added_ms": 20,
    "repeated_login_added_lua_ms": 3,
    "not_enrolled_login_added_lua_ms": 0.5,
    "first_login_added_to_argon2id_ms": 30,
    "first_login_added_to_argon2id_lua_ms": 30,
    "checkpassword_helper_ms": 25,
    "repeated_login_under_wrong_passwords_ratio": 1.5,
    "argon2id_peak_mib": 2 * 64 + 60,
    "sessions_100000_mb": 400,
}
"""The limit of each figure."""


def run(say: Say, *, rounds: int = 60) -> dict[str, object]:
    """All figures: {name: {value, limit}}, and their medians."""
    figures: dict[str, float] = {}
    details: dict[str, object] = {}
    figures["sessions_100000_mb"] = sessions_in_memory()
    say(f"100,000 sessions take {figures['sessions_100000_mb']:.0f} MB")
    doors = DOORS[series(installed_version())]
    with contextlib.ExitStack() as stack:
        variants = ("passwd-file", "behind-passwd-file", *doors.values())
        labs = {name: stack.enter_context(started(name)) for name in variants}
        logins: dict[str, Door] = {name: (lab.imap, ALICE, PASSWORD) for name, lab in labs.items()}
        logins["not enrolled"] = (labs["behind-passwd-file"].imap, PLAIN, PASSWORD)
        for name, key in (("Dovecot alone", None), ("mail_crypt", PrivateKey.generate())):
            logins[name] = (stack.enter_context(alone(name, key)), peers.USER, peers.PASSWORD)
        repeated = repeated_logins(logins, rounds)
        details["repeated_login_ms"] = repeated
        for name, median in repeated.items():
            say(f"repeated login, {name}: {median:.1f} ms")
        without = repeated["passwd-file"]  # it loads mail_crypt, as mailseal.conf says
        figures["not_enrolled_login_added_lua_ms"] = repeated["not enrolled"] - without
        for suffix, name in doors.items():
            figures[f"repeated_login_added{suffix}_ms"] = repeated[name] - without
            first, argon2id = first_logins(labs[name], 15)
            details[f"first_login{suffix}_ms"], details[f"argon2id{suffix}_ms"] = first, argon2id
            say(f"first login, {name}: {first:.1f} ms, of which Argon2id {argon2id:.1f} ms")
            figures[f"first_login_added_to_argon2id{suffix}_ms"] = first - argon2id
        if "" in doors:
            figures["checkpassword_helper_ms"] = helper_alone(labs[doors[""]], 40)
            say(f"checkpassword helper alone: {figures['checkpassword_helper_ms']:.1f} ms")
        quiet, flooded = under_wrong_passwords(labs["mailseal-only"], 4)
        details["login_ms_quiet"], details["login_ms_flooded"] = quiet, flooded
        say(f"repeated login: {quiet:.1f} ms, beside wrong passwords {flooded:.1f} ms")
        figures["repeated_login_under_wrong_passwords_ratio"] = flooded / quiet
        figures["argon2id_peak_mib"] = peak_mib(labs["mailseal-only"])
        say(f"the agent took {figures['argon2id_peak_mib']:.0f} MiB at most")
    checked = {
        name: {"value": round(value, 2), "limit": LIMITS[name], "kept": value < LIMITS[name]}
        for name, value in figures.items()
    }
    return {"figures": checked, "details": details}


@contextlib.contextmanager
def started(variant: str) -> Iterator[Lab]:
    """A lab's Dovecot and agent, without Postfix and deliveries."""
    lab = Lab(
        {ALICE: PASSWORD, BOB: PASSWORD},
        auth=variant,
        kdf="standard",
        plain_users={PLAIN: PASSWORD},
    )
    try:
        lab.mailseal("init")
        lab.start_agent()
        for user in (ALICE, BOB):
            lab.add_user(user, PASSWORD)
        lab.dovecot.start()
        yield lab
    finally:
        lab.stop()


@contextlib.contextmanager
def alone(name: str, key: PrivateKey | None) -> Iterator[Address]:
    """A Dovecot without mailseal, with mail_crypt if there is a key."""
    place = Place.make()
    try:
        peer = DovecotPeer(name.replace(" ", "-"), place, key)
        try:
            peer.start()
            yield peer.imap
        finally:
            peer.stop()
    finally:
        place.remove()


def login_ms(door: Door) -> float:
    """One login, from LOGIN to OK."""
    address, user, password = door
    with Imap(address) as imap:
        began = time.perf_counter()
        imap.login(user, password)
        return (time.perf_counter() - began) * 1000


def repeated_logins(doors: dict[str, Door], rounds: int) -> dict[str, float]:
    """Medians; the variants take turns."""
    for door in doors.values():
        for _ in range(5):
            login_ms(door)
    found: dict[str, list[float]] = {name: [] for name in doors}
    for number in range(rounds):
        names = list(doors) if number % 2 == 0 else list(doors)[::-1]
        for name in names:
            found[name].append(login_ms(doors[name]))
    return {name: statistics.median(times) for name, times in found.items()}


def first_logins(lab: Lab, rounds: int) -> tuple[float, float]:
    """Medians of a login without session, and of Argon2id alone, taking turns."""
    logins, derivations = [], []
    for _ in range(rounds):
        lab.mailseal("lock", ALICE)
        logins.append(login_ms((lab.imap, ALICE, PASSWORD)))
        began = time.perf_counter()
        kdf.derive(b"password", bytes(16), kdf.PROFILES["standard"], 64)
        derivations.append((time.perf_counter() - began) * 1000)
    return statistics.median(logins), statistics.median(derivations)


def helper_alone(lab: Lab, rounds: int) -> float:
    """The run time of one checkpassword program if there is a session; median in ms."""
    helper = os.path.join(lab.hooks, "mailseal-checkpassword")
    question = lab.place.path("question")
    with open(question, "wb") as stream:
        stream.write(f"{ALICE}\0{PASSWORD}\0\0".encode())
    times = []
    for _ in range(rounds):
        asked = os.open(question, os.O_RDONLY)
        answered = os.open(os.devnull, os.O_WRONLY)
        actions = [(os.POSIX_SPAWN_DUP2, asked, 3), (os.POSIX_SPAWN_DUP2, answered, 4)]
        # not 3 and 4, which the child needs
        high = [os.dup(asked) for _ in range(4)]
        command = [helper, "--socket", lab.agent_socket, "reply"]
        began = time.perf_counter()
        child = os.posix_spawn(helper, command, {}, file_actions=actions)
        _, status = os.waitpid(child, 0)
        times.append((time.perf_counter() - began) * 1000)
        for descriptor in (asked, answered, *high):
            os.close(descriptor)
        if status != 0:
            raise RuntimeError(f"the helper ended with {status}")
    return statistics.median(times)


def under_wrong_passwords(lab: Lab, rounds: int) -> tuple[float, float]:
    """Medians of repeated logins of one user, alone and during wrong passwords for another.

    Both take turns every few seconds, so that other work on the machine affects both.
    """
    over, flood = threading.Event(), threading.Event()
    guessers = 100  # many, so that slow answers do not reduce the rate
    numbers = itertools.count()

    def guess() -> None:
        while flood.wait() and not over.is_set():
            due = time.monotonic() + guessers * 60 / WRONG_A_MINUTE
            with contextlib.suppress(Refused, OSError):
                Imap(lab.imap, BOB, f"wrong {next(numbers)}")
            time.sleep(max(0.0, due - time.monotonic()))

    threads = [threading.Thread(target=guess, daemon=True) for _ in range(guessers)]
    for thread in threads:
        thread.start()
    login_ms((lab.imap, ALICE, PASSWORD))
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * rounds):
        flooded = number % 2 == 1
        if flooded:
            flood.set()
        else:
            flood.clear()
        time.sleep(2)  # earlier requests have ended
        end = time.monotonic() + 4
        while time.monotonic() < end:
            times[flooded].append(login_ms((lab.imap, ALICE, PASSWORD)))
            time.sleep(0.05)
    over.set()
    flood.set()
    for thread in threads:
        thread.join()
    return statistics.median(times[False]), statistics.median(times[True])


def peak_mib(lab: Lab) -> float:
    """The agent's largest resident size so far."""
    with open(f"/proc/{lab.agent.pid}/status", encoding="ascii") as stream:
        line = next(line for line in stream if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


_SESSIONS = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.stores import Revision
from mailseal.login.sessions import Sessions

def size():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()

keys = (PrivateKey.generate(), PrivateKey.generate())
sessions = Sessions(idle=3600, absolute=3600)
before = size()
for number in range(100_000):
    user = f"user-with-a-usual-name-{number}@mail.example.org"
    for password in (b"login", b"app"):
        revision = Revision(f"{number}-{number << 33}-{2048 + number % 7}")
        sessions.start(user, sessions.mac(user, password), revision, keys, "abc")
print((size() - before) / 1e6)
"""


def sessions_in_memory() -> float:
    """MB for 100,000 sessions with two passwords and two key pairs each, in a separate process."""
    command = ["/usr/bin/python3", "-I", "-c", _SESSIONS, os.path.join(REPOSITORY, "lib")]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


if __name__ == "__main__":
    import json

    sys.stdout.write(json.dumps(run(lambda line: print(line, file=sys.stderr)), indent=1) + "\n")
