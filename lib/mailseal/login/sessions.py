# SPDX-License-Identifier: MIT
"""Sessions: private keys of opened keyrings, kept in memory for the next login.

CONTRACT
    A session can be used only with a password that has opened the same version of the
    keyring before.  Passwords are not stored, only an HMAC-SHA256 with a key that this
    process made when it started; it is compared in constant time.
    A session ends when no login has used it for `idle` seconds, `absolute`
    seconds after it began, when the keyring file changes, and by end().
    Its key material is then overwritten.

MEMORY
    For each session one object, one bytearray with private keys, and one HMAC for each
    password; 105 MB for 100,000 sessions with two of each (tests/bench/login.py).
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Sequence

from mailseal.crypto.eckeys import CURVES, PrivateKey, PublicKey
from mailseal.keys.stores import Revision

MAX_PASSWORDS = 16
"""Number of passwords (login and app passwords) that one session remembers."""

_CURVES = tuple(CURVES)


class Session:
    """One opened keyring."""

    __slots__ = ("at_end", "index", "macs", "revision", "secret", "started", "used", "user")

    def __init__(
        self,
        user: str,
        revision: Revision,
        keys: Sequence[PrivateKey],
        index_key: bytes,
        now: float,
    ) -> None:
        self.user = user
        self.revision = revision
        self.secret = pack(keys)
        self.index = bytearray(index_key)
        self.macs: tuple[tuple[bytes, str], ...] = ()
        self.started = self.used = now
        self.at_end: tuple[Callable[[], object], ...] = ()

    def private_keys(self) -> tuple[PrivateKey, ...]:
        """The private keys, oldest first."""
        return unpack(self.secret)

    def wipe(self) -> None:
        """Overwrite the private numbers and the key of the index folder."""
        self.secret[:] = bytes(len(self.secret))
        self.index[:] = bytes(len(self.index))
        self.macs = ()
        for call in self.at_end:
            call()


class Sessions:
    """All sessions, by user.  Used by the event loop only, not by several threads."""

    def __init__(
        self, *, idle: float, absolute: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._idle = idle
        self._absolute = absolute
        self._clock = clock
        self._key = os.urandom(32)
        self._by_user: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_user)

    def mac(self, user: str, password: bytes) -> bytes:
        """HMAC of a user's password in this process, 32 bytes."""
        name = user.encode()
        return hmac.digest(self._key, len(name).to_bytes(4, "big") + name + password, "sha256")

    def find(self, user: str, mac: bytes, revision: Revision | None) -> tuple[Session, str] | None:
        """The session for this password and the id of its slot, or None."""
        session = self._by_user.get(user)
        if session is None:
            return None
        if self._over(session) or session.revision != revision:
            self.end(user)
            return None
        found = None
        for known, slot_id in session.macs:
            if hmac.compare_digest(known, mac):
                found = slot_id
        if found is None:
            return None
        session.used = self._clock()
        return session, found

    def peek(self, user: str, revision: Revision | None) -> Session | None:
        """The session of a user, without a password; this does not count as its use."""
        session = self._by_user.get(user)
        if session is None or self._over(session) or session.revision != revision:
            return None
        return session

    def start(
        self,
        user: str,
        mac: bytes,
        revision: Revision,
        keys: Sequence[PrivateKey],
        slot_id: str,
        index_key: bytes = b"",
    ) -> Session:
        """A password has opened the keyring: start a session, or add it to the existing one."""
        session = self._by_user.get(user)
        if session is None or self._over(session) or session.revision != revision:
            self.end(user)
            session = self._by_user[user] = Session(user, revision, keys, index_key, self._clock())
        others = tuple(entry for entry in session.macs if entry[0] != mac)
        session.macs = ((mac, slot_id), *others[: MAX_PASSWORDS - 1])
        session.used = self._clock()
        return session

    def end(self, user: str) -> bool:
        """End the session of one user.  Returns whether there was one."""
        session = self._by_user.pop(user, None)
        if session is not None:
            session.wipe()
        return session is not None

    def revision(self, user: str) -> Revision | None:
        """Of the keyring that the user's session was opened from, or None."""
        session = self._by_user.get(user)
        return None if session is None or self._over(session) else session.revision

    def end_all(self) -> int:
        """End all sessions.  Returns their number."""
        count = len(self._by_user)
        for session in self._by_user.values():
            session.wipe()
        self._by_user.clear()
        return count

    def expire(self) -> list[str]:
        """End the sessions that have timed out.  Returns their users."""
        over = [user for user, session in self._by_user.items() if self._over(session)]
        for user in over:
            self.end(user)
        return over

    def age(self, user: str) -> tuple[float, float] | None:
        """Seconds since the session began and since its last use, or None."""
        session = self._by_user.get(user)
        if session is None or self._over(session):
            return None
        now = self._clock()
        return now - session.started, now - session.used

    def current(self, user: str) -> Session | None:
        """The session of a user, if there is one.  Does not count as a use."""
        session = self._by_user.get(user)
        return None if session is None or self._over(session) else session

    def younger_than(self, seconds: float) -> list[str]:
        """The users whose sessions have begun within this time, the latest first."""
        since = self._clock() - seconds
        found = [(s.started, user) for user, s in self._by_user.items() if s.started >= since]
        return [user for _, user in sorted(found, reverse=True)]

    def _over(self, session: Session) -> bool:
        now = self._clock()
        return now - session.used >= self._idle or now - session.started >= self._absolute


def pack(keys: Sequence[PrivateKey]) -> bytearray:
    """Private keys as bytes that can be overwritten.

    With the SPKIs: without them, each login would compute the points again, which took 0.3 ms for
    each pair.
    """
    packed = bytearray()
    for key in keys:
        packed += bytes((_CURVES.index(key.curve.name), len(key.public.spki)))
        packed += key.public.spki + key.scalar
    return packed


def unpack(packed: bytearray) -> tuple[PrivateKey, ...]:
    """What pack() packed."""
    found = []
    at = 0
    while at < len(packed):
        curve, size = CURVES[_CURVES[packed[at]]], packed[at + 1]
        middle, end = at + 2 + size, at + 2 + size + curve.size
        public = PublicKey.trusted(curve, bytes(packed[at + 2 : middle]))
        found.append(PrivateKey.trusted(public, bytes(packed[middle:end])))
        at = end
    return tuple(found)
