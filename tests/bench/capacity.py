# SPDX-License-Identifier: MIT
"""What grows with the number of users: the same agent and stores with few users and with many.

python -m tests.bench.capacity      needs root; about 2,000,000 inodes and 12 GB in TMPDIR

Both sizes are measured side by side: a figure is the time with many users divided by the time with
few.  Public keys are real files of the store, keyrings too, with the cheapest Argon2id profile: so
a first login shows the cost of the store and not of Argon2id.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from mailseal.crypto import kdf
from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.keys.keyring import Keyring, Opened
from mailseal.keys.names import file_name
from mailseal.keys.public import PublicStore, encode
from mailseal.login.client import AgentClient
from tests.unit.agent_process import CHEAP, AgentProcess

FEW, MANY = 1_000, 1_000_000
KEYRINGS = 100_000
"""At most so many of the users have a keyring on this host."""
PASSWORD = b"password"
_PICKS = 400
_STARTS = 7

Say = Callable[[str], None]
Found = dict[str, dict[str, float]]


def address(number: int) -> str:
    """The user with this number."""
    return f"user{number:07d}@example.org"


class Site:
    """An agent with this many users."""

    def __init__(self, folder: Path, users: int, say: Say, options: str = CHEAP) -> None:
        self.folder, self.users = folder, users
        self.keyrings = min(users, KEYRINGS)
        folder.mkdir(exist_ok=True)
        self.agent = AgentProcess(folder, options)
        self.agent.run("init").check_returncode()
        self.public = str(folder / "state" / "public")
        began = time.monotonic()
        self._fill()
        say(f"{users} users: made in {time.monotonic() - began:.0f} s")

    def _fill(self) -> None:
        steps = range(0, self.users, 1000)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_fill, [self.folder] * len(steps), steps))
        os.sync()

    def start(self) -> float:
        """Seconds until the agent has answered."""
        began = time.monotonic()
        self.agent.start()
        self.asked("status", [0])
        return time.monotonic() - began

    def stop(self) -> None:
        if self.agent.running:
            self.agent.stop()

    def rss_mb(self) -> float:
        """Resident memory of the agent."""
        with open(f"/proc/{self.agent.pid}/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def lookups(self, picks: list[int]) -> list[float]:
        """Seconds for each look-up, each in a store without a cache."""
        store = PublicStore(self.public)
        return [_timed(partial(store.lookup, address(n))) for n in picks]

    def strangers(self, picks: list[int]) -> list[float]:
        """The same for users who are not enrolled."""
        store = PublicStore(self.public)
        return [_timed(partial(store.lookup, f"no{address(n)}")) for n in picks]

    def asked(self, verb: str, picks: list[int]) -> list[float]:
        """Seconds for each answer of the agent."""
        found = []
        with AgentClient(str(self.agent.socket), 60) as agent:
            for number in picks:
                fields = {"user": address(number).encode()}
                if verb == "unlock":
                    fields |= {"password": PASSWORD, "service": b"imap"}
                found.append(_timed(partial(agent.request, verb, **fields)))
        return found

    def listing(self) -> list[float]:
        """Seconds for the first page of `mailseal status` of all users, and for a later one."""
        with AgentClient(str(self.agent.socket), 300) as agent:
            answers = []

            def page(**fields: bytes) -> None:
                answers.append(agent.request("status", **fields))

            first = _timed(page)
            later = []
            for _ in range(5):
                last = json.loads(answers[-1].fields["users"])[-1]["user"]
                later.append(_timed(partial(page, after=last.encode())))
        return [first, statistics.median(later)]


def users_from(start: int) -> Iterator[tuple[str, PublicKey, Keyring | None]]:
    """1,000 users from this number on.  Those without a keyring have the same public key."""
    public = PrivateKey.generate().public
    for number in range(start, start + 1000):
        user = address(number)
        if number < KEYRINGS:
            opened = Opened.create(user, curve="prime256v1", now=0)
            opened.set_login(PASSWORD, kdf.PROFILES["insecure-testing"], now=0)
            yield user, opened.keyring.current, opened.keyring
        else:
            yield user, public, None


def _fill(folder: Path, start: int) -> None:
    public = folder / "state" / "public"
    keyrings = folder / "state" / "keys"
    for user, key, keyring in users_from(start):
        name = file_name(user)
        if keyring is not None:
            (keyrings / f"{name}.json").write_bytes(keyring.encode())
        (public / "enrolled" / name).touch()
        (public / f"{name}.json").write_bytes(encode(user, key))


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def run(folder: Path, say: Say, *, many: int = MANY) -> Found:
    """Figures by name: with few users, with many, and the ratio."""
    sites = [Site(folder / name, size, say) for name, size in (("few", FEW), ("many", many))]
    return measure(sites, say)


def measure(sites: Sequence[Site], say: Say) -> Found:
    """The figures of these two sites, which are stopped at the end."""
    chance = random.Random(1)

    def figures() -> Iterator[tuple[str, list[float]]]:
        yield "start_s", [statistics.median(_start(site) for _ in range(_STARTS)) for site in sites]
        for site in sites:
            site.start()
        yield "rss_mb", [site.rss_mb() for site in sites]
        kinds: dict[str, Callable[[Site, list[int]], list[float]]] = {
            "lookup_ms": Site.lookups,
            "lookup_not_enrolled_ms": Site.strangers,
            "first_login_without_argon2id_ms": lambda site, picks: site.asked("unlock", picks),
            "repeated_login_ms": lambda site, picks: site.asked("unlock", picks),
            "status_of_one_ms": lambda site, picks: site.asked("status", picks),
        }
        picks = {site: chance.sample(range(site.keyrings), _PICKS) for site in sites}
        for name, measure in kinds.items():
            # In turns, so that other work on the machine affects both.
            times: dict[Site, list[float]] = {site: [] for site in sites}
            for step in range(0, _PICKS, 20):
                for site in sites:
                    times[site] += measure(site, picks[site][step : step + 20])
            yield name, [statistics.median(times[site]) * 1000 for site in sites]
        (first, page), (first_of_many, page_of_many) = [site.listing() for site in sites]
        yield "status_of_all_first_page_s", [first, first_of_many]
        yield "status_of_all_next_pages_s", [page, page_of_many]
        yield "rss_after_mb", [site.rss_mb() for site in sites]

    found = {}
    try:
        for name, (few, lots) in figures():
            found[name] = {"few": few, "many": lots, "ratio": lots / few}
            say(f"{name}: {few:.3f} with few users, {lots:.3f} with many: {lots / few:.2f} times")
    finally:
        for site in sites:
            site.stop()
    return found


def _start(site: Site) -> float:
    took = site.start()
    site.stop()
    return took


def main() -> None:
    """Print the figures, and write them to build/capacity.json."""
    with tempfile.TemporaryDirectory(prefix="mailseal-capacity-") as name:
        many = int(sys.argv[1]) if len(sys.argv) > 1 else MANY
        found = run(Path(name), lambda line: print(line, flush=True), many=many)
    Path("build").mkdir(exist_ok=True)
    Path("build/capacity.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
