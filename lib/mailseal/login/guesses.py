# SPDX-License-Identifier: MIT
"""Rate limits for wrong passwords, for each user and each remote address.

CONTRACT
    admit() permits an attempt, or raises TooManyGuesses, a temporary failure: the password
    was not checked, so the client must not be told that it is wrong.  The answer is not
    delayed: each delayed answer would keep one of Dovecot's auth workers busy.
    A configured number of different wrong passwords causes no pause.  After that, one attempt
    is permitted after a pause of 1, 2, 4 … seconds, up to a limit.  Counts are reset after 15
    minutes without a wrong password.  The same wrong password (of a phone that still
    has the old one) is counted once, but at a panel each time: there no program repeats it, and
    each attempt runs Argon2id.
    Panels that report no address have a separate count for each user.  So an attack on a
    user's logins does not prevent a password change.  With the address of its client, an attempt
    at a panel is counted like one at IMAP.
    An address from which a user has logged in before has a separate count for that user,
    with a pause of at most 2 seconds.  So an attack from elsewhere does not affect the user.
    Passwords that a session or another passdb has accepted are not counted.

MEMORY
    20,000 users and as many addresses with wrong passwords, and 100,000 addresses of earlier
    logins, at most 32 for each user.  The oldest are removed first.  Only the addresses of
    earlier logins are kept over a restart (known_addresses.py).

The line for programs such as fail2ban begins with the address, before anything
that a stranger can choose:

    wrong password from ADDRESS: user=<USER>
"""

from __future__ import annotations

import dataclasses
import hmac
import ipaddress
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from mailseal.errors import TooManyGuesses

_FORGET = 900.0
_KNOWN_PAUSE = 2.0
_COUNTED = 20_000
_KNOWN = 100_000
# Otherwise one account with many addresses (an IPv6 /48 has 65,536) would push out all others.
_KNOWN_EACH = 32
_SAME = 4
# Two bytes distinguish wrong passwords, and reveal almost nothing to a reader of the memory.
_KEPT = 2

Place = str
"""An IPv4 address, or the /64 of an IPv6 address."""

_Kind = tuple[tuple[str, ...], int, float]
"""What is counted together, the number without a pause, and the longest pause in seconds."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The options login.wrong_*.  `pause` is in seconds."""

    per_user: int = 10
    per_address: int = 30
    pause: float = 60.0
    shared: Sequence[str] = ()


class _Count:
    """One count of wrong passwords.  `free` and `pause`: see the contract."""

    __slots__ = ("free", "key", "last", "next", "pause", "recent", "under_way", "wrong")

    def __init__(self, key: tuple[str, ...], free: int, pause: float) -> None:
        self.key = key
        self.free = free
        self.pause = pause
        self.wrong = self.under_way = 0
        self.next = self.last = 0.0
        self.recent: tuple[bytes, ...] = ()

    def wait(self, now: float) -> float:
        """Seconds until the next attempt may begin; 0: at once."""
        if not self.under_way and now - self.last > _FORGET:
            self.wrong, self.next, self.recent = 0, 0.0, ()
        if self.wrong + self.under_way < self.free:
            return 0.0
        # One at a time: the length of the pause depends on the result of the present attempt.
        return max(self.next - now, 1.0 if self.under_way else 0.0)

    def ended(self, now: float, wrong: bytes | None, *, repeated: bool) -> bool:
        self.under_way -= 1
        if wrong is None:
            return False
        if new := (wrong := wrong[:_KEPT]) not in self.recent:
            self.recent = (wrong, *self.recent[: _SAME - 1])
        elif not repeated:
            return False
        self.wrong += 1
        self.last = now
        if self.wrong >= self.free:
            self.next = now + min(2.0 ** min(self.wrong - self.free, 30), self.pause)
        return new


class Try:
    """One permitted attempt.  ended() must be called exactly once, with any result."""

    def __init__(
        self,
        counts: Sequence[_Count],
        clock: Callable[[], float],
        forget: Callable[[Sequence[_Count]], None],
    ) -> None:
        self._counts = counts
        self._clock = clock
        self._forget = forget
        for count in counts:
            count.under_way += 1

    def ended(self, wrong: bytes | None, *, repeated: bool = False) -> bool:
        """`wrong`: an HMAC of the password if it was wrong; None if it was right.

        One that was seen before is only counted with `repeated`.  Returns whether it is new.
        """
        now = self._clock()
        # Each count needs the result.
        new = [count.ended(now, wrong, repeated=repeated) for count in self._counts]
        self._forget(self._counts)
        return any(new)


class Guesses:
    """All counts.  Used by the event loop only, not by several threads."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        log: logging.Logger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or Limits()
        self._log = log or logging.getLogger("mailseal.guesses")
        self._clock = clock
        self._key = os.urandom(32)
        self._shared = [ipaddress.ip_network(net) for net in self._limits.shared]
        self._counts: OrderedDict[tuple[str, ...], _Count] = OrderedDict()
        self._known: OrderedDict[str, OrderedDict[Place, None]] = OrderedDict()
        self._known_places = 0
        self.changes = 0
        """Number of addresses that have become known."""

    def admit_to_panel(self, user: str) -> Try:
        """As admit(), for an attempt at one of agent.panel_users."""
        return self._begin([(("panel", user), self._limits.per_user, self._limits.pause)], user)

    def admit(self, user: str, remote: str) -> Try:
        """Permit an attempt, or raise TooManyGuesses."""
        limits, place = self._limits, place_of(remote)
        kinds: list[_Kind]
        if place is not None and place in self._known.get(user, ()):
            kinds = [(("known", user, place), limits.per_user, _KNOWN_PAUSE)]
        else:
            kinds = [(("user", user), limits.per_user, limits.pause)]
            if place is not None and not self._is_shared(remote):
                kinds.insert(0, (("address", place), limits.per_address, limits.pause))
        # The address first: during its pause, an address creates no new counts for users.
        return self._begin(kinds, user, place)

    def _begin(self, kinds: Sequence[_Kind], user: str, place: Place | None = None) -> Try:
        counts: list[_Count] = []
        for key, free, pause in kinds:
            count = self._count(key, free, pause)
            wait = count.wait(self._clock())
            if wait > 0:
                self._forget(counts)
                raise TooManyGuesses(
                    f"too many wrong passwords for {user} or from {place or 'this address'}",
                    hint=f"the next attempt is possible in {wait:.0f} s",
                )
            counts.append(count)
        return Try(counts, self._clock, self._forget)

    def _forget(self, counts: Sequence[_Count]) -> None:
        """Remove a count of zero: unknown names that cost nothing must not push out others."""
        for count in counts:
            idle = not count.wrong and not count.under_way
            if idle and self._counts.get(count.key) is count:
                del self._counts[count.key]

    def stands_for(self, user: str, secret: bytes) -> bytes:
        """The HMAC of a wrong password for Try.ended().  For each user it is another one."""
        name = user.encode()
        return hmac.digest(self._key, len(name).to_bytes(4, "big") + name + secret, "sha256")

    def note_wrong(self, user: str, remote: str) -> None:
        """Log a wrong password."""
        shown = remote if place_of(remote) is not None else "an unknown address"
        self._log.info("wrong password from %s: user=<%s>", shown, user)

    def note_right(self, user: str, remote: str) -> None:
        """Note that the user has logged in from this address."""
        place = place_of(remote)
        if place is None:
            return
        places = self._known.setdefault(user, OrderedDict())
        self._known.move_to_end(user)
        self._known_places -= len(places)
        self.changes += place not in places
        places[place] = None
        places.move_to_end(place)
        if len(places) > _KNOWN_EACH:
            places.popitem(last=False)
        self._known_places += len(places)
        while self._known_places > _KNOWN:
            self._known_places -= len(self._known.popitem(last=False)[1])

    def known(self) -> dict[str, list[Place]]:
        """The addresses from which users have logged in, the oldest first."""
        return {user: list(places) for user, places in self._known.items()}

    def _count(self, key: tuple[str, ...], free: int, pause: float) -> _Count:
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count(key, free, pause)
        self._counts.move_to_end(key)
        if len(self._counts) > 2 * _COUNTED:
            self._counts.popitem(last=False)
        return count

    def _is_shared(self, remote: str) -> bool:
        address = _parsed(remote)
        return address.is_loopback or any(address in network for network in self._shared)


def place_of(remote: str) -> Place | None:
    """What is counted for an address; None if it is not an address."""
    try:
        address = _parsed(remote)
    except ValueError:
        return None
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((int(address), 64), strict=False))


def _parsed(remote: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(remote.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address
