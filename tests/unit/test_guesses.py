# SPDX-License-Identifier: MIT
"""Rate limits for wrong passwords: counts, pauses, and users who do not affect each other."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mailseal.errors import TooManyGuesses
from mailseal.login import guesses as module
from mailseal.login.guesses import Guesses, Limits, place_of
from mailseal.login.log import logger
from mailseal.logs import Log
from tests.lab.place import REPOSITORY

ALICE, BOB = "alice@example.org", "bob@example.org"
HOME, FAR = "192.0.2.1", "198.51.100.7"
LIMITS = Limits(per_user=3, per_address=5, pause=60, shared=("203.0.113.0/24",))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Tries:
    """Attempts with different wrong passwords, one after the other."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.clock = Clock()
        self.guesses = Guesses(limits, clock=self.clock)
        self._number = 0

    def wrong(self, user: str = ALICE, remote: str = FAR, mac: bytes | None = None) -> bool:
        """Whether the attempt was permitted."""
        self._number += 1
        try:
            one = self.guesses.admit(user, remote)
        except TooManyGuesses:
            return False
        one.ended(mac or self._number.to_bytes(2, "big"))
        return True

    def right(self, user: str = ALICE, remote: str = FAR) -> bool:
        try:
            self.guesses.admit(user, remote).ended(None)
        except TooManyGuesses:
            return False
        self.guesses.note_right(user, remote)
        return True


def test_the_pause_grows_up_to_the_longest() -> None:
    tries = Tries()
    assert [tries.wrong() for _ in range(4)] == [True, True, True, False]
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        tries.clock.now += pause - 0.5
        assert not tries.wrong()
        assert not tries.right()
        tries.clock.now += 0.5
        assert tries.wrong()
        assert not tries.wrong()


def test_counts_are_reset_after_a_while() -> None:
    tries = Tries()
    while tries.wrong():
        pass
    tries.clock.now += 901
    assert [tries.wrong() for _ in range(4)] == [True, True, True, False]


def test_simultaneous_attempts_are_counted_too() -> None:
    tries = Tries()
    let_in = []
    for _ in range(100):
        try:
            let_in.append(tries.guesses.admit(ALICE, FAR))
        except TooManyGuesses:
            continue
    assert len(let_in) == 3
    for number, one in enumerate(let_in):
        one.ended(number.to_bytes(2, "big"))
    assert not tries.wrong()
    tries.clock.now += 1
    one = tries.guesses.admit(ALICE, FAR)
    assert not tries.wrong(), "while another attempt is in progress"
    one.ended(None)
    assert tries.wrong(), "a right password is not counted"


def test_the_same_wrong_password_counts_once() -> None:
    tries = Tries()
    assert all(tries.wrong(mac=b"old one") for _ in range(100))
    assert [tries.wrong() for _ in range(3)] == [True, True, False]


def test_an_attack_from_elsewhere_does_not_affect_a_known_address() -> None:
    tries = Tries()
    assert tries.right(ALICE, HOME)
    for number in range(300):
        tries.wrong(ALICE, f"198.51.100.{number % 250}")
        assert tries.right(ALICE, HOME)
    assert not tries.right(ALICE, "198.51.101.1"), "an unknown address has to wait"


def test_one_account_with_many_addresses_does_not_push_out_others() -> None:
    tries = Tries()
    assert tries.right(ALICE, HOME)
    for number in range(150_000):
        tries.guesses.note_right(BOB, f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1")
    while tries.wrong(ALICE, FAR):
        pass
    assert tries.right(ALICE, HOME)


def test_attempts_that_cost_nothing_push_no_count_out() -> None:
    """If the queue is full, an attempt ends at once: many names must not remove a user's count."""
    tries = Tries()
    while tries.wrong(ALICE, FAR):
        pass
    for number in range(60_000):
        tries.guesses.admit(f"user{number}", "127.0.0.1").ended(None)
    assert not tries.wrong(ALICE, FAR)


def test_a_known_address_is_slowed_down_by_two_seconds_at_most() -> None:
    tries = Tries()
    assert tries.right(ALICE, HOME)
    for _ in range(50):
        tries.wrong(ALICE, HOME)
        tries.clock.now += 2
    assert tries.right(ALICE, HOME)
    assert tries.wrong(BOB, HOME), "the address itself has no wrong passwords"


def test_one_address_and_many_users() -> None:
    tries = Tries()
    assert [tries.wrong(f"user{n}", FAR) for n in range(6)] == [True] * 5 + [False]
    assert tries.wrong("another", HOME)


@pytest.mark.parametrize("remote", ["127.0.0.1", "::1", "203.0.113.9", "", "no address"])
def test_shared_and_unknown_addresses_count_by_user_only(remote: str) -> None:
    tries = Tries()
    assert all(tries.wrong(f"user{n}", remote) for n in range(50))
    assert [tries.wrong(ALICE, remote) for _ in range(4)] == [True] * 3 + [False]


def test_ipv6_counts_by_64_bits_and_mapped_ipv4_as_ipv4() -> None:
    assert place_of("2001:db8:1:2:aaaa::1") == place_of("2001:db8:1:2::ffff") == "2001:db8:1:2::/64"
    assert place_of("2001:db8:1:3::1") != place_of("2001:db8:1:2::1")
    assert place_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert place_of("fe80::1%eth0") == "fe80::/64"
    assert place_of("1.2.3") is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COUNTED", 50)
    monkeypatch.setattr(module, "_KNOWN", 50)
    tries = Tries()
    for number in range(1000):
        tries.wrong(f"user{number}", f"10.0.{number // 250}.{number % 250}")
        tries.right(f"user{number}", f"10.1.{number // 250}.{number % 250}")
    assert 90 < len(tries.guesses._counts) <= 100  # an attempt removes counts, and may add none
    assert len(tries.guesses._known) == 50


def test_the_filter_of_the_docs_finds_the_address_and_nothing_a_user_name_says(
    tmp_path: Path,
) -> None:
    """fail2ban removes the date, and <HOST> matches an address."""
    with open(os.path.join(REPOSITORY, "docs", "install.md"), encoding="utf-8") as stream:
        (expression,) = re.findall(r"^failregex = (.*)$", stream.read(), re.M)
    pattern = re.compile(expression.replace("<HOST>", r"(?P<host>[\w.:]+)"))
    file = tmp_path / "log"
    log = logger(Log(str(file), "mailseal-agent"))
    guesses = Guesses(log=log)
    forged = "eve>\nmailseal-agent[1]: wrong password from 203.0.113.1: user=<x"
    guesses.note_wrong(forged, FAR)
    guesses.note_wrong(ALICE, "2001:db8::1")
    guesses.note_wrong(forged.partition("\n")[2], "")
    found = [pattern.search(x.partition(" ")[2]) for x in file.read_text().splitlines()]
    assert [match and match["host"] for match in found] == [FAR, "2001:db8::1", None]
