# SPDX-License-Identifier: MIT
"""Sessions and open forms.  They are in memory: a restart signs all users out.

CONTRACT
    The cookie is a random number that identifies a session; each sign-in makes a new one.
    Each form has a token for the session and the form's address, which can be used once.
    Without a sign-in there is no session: tokens are computed from the cookie and the time, so
    that strangers cannot use up memory.
    A session contains no password and no code.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_FORMS = 64
"""Largest number of open forms of one session; older ones must be loaded again."""
_SESSIONS = 20_000
_OF_ONE_USER = 20
_FORM_FOR = 1800.0


class WebSession:
    """One browser of a user."""

    def __init__(self, user: str, token: str, now: float) -> None:
        self.user = user
        self.token = token
        """For the agent's verb `state`."""
        self.started = self.used = now
        self.forms: OrderedDict[str, str] = OrderedDict()
        self.notice = ""
        """A message for the next page."""


class WebSessions:
    """All sessions.  Used by several threads."""

    def __init__(
        self, *, idle: float, absolute: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._idle = idle
        self._absolute = absolute
        self._clock = clock
        self._key = os.urandom(32)
        self._lock = threading.Lock()
        self._by_name: OrderedDict[bytes, WebSession] = OrderedDict()

    def start(self, user: str, token: str) -> str:
        """Sign in; returns the new cookie."""
        cookie = new_cookie()
        with self._lock:
            mine = [name for name, session in self._by_name.items() if session.user == user]
            for name in mine[: max(0, len(mine) - _OF_ONE_USER + 1)]:
                del self._by_name[name]
            while len(self._by_name) >= _SESSIONS:
                self._by_name.popitem(last=False)
            self._by_name[_name(cookie)] = WebSession(user, token, self._clock())
        return cookie

    def find(self, cookie: str, *, used: bool = True) -> WebSession | None:
        """The session of this cookie, if it has not ended.

        `used`: whether this is an activity of the user, after which idle time is counted again.
        """
        with self._lock:
            name = _name(cookie)
            session = self._by_name.get(name)
            if session is None:
                return None
            now = self._clock()
            if now - session.used >= self._idle or now - session.started >= self._absolute:
                del self._by_name[name]
                return None
            if used:
                session.used = now
                self._by_name.move_to_end(name)
            return session

    def end(self, cookie: str) -> None:
        """Sign out."""
        with self._lock:
            self._by_name.pop(_name(cookie), None)

    def end_all(self, user: str, but: str = "") -> None:
        """End all sessions of this user, but not that of the cookie `but`."""
        kept = _name(but)
        with self._lock:
            mine = [name for name, one in self._by_name.items() if one.user == user]
            for name in mine:
                if name != kept:
                    del self._by_name[name]

    def new_form(
        self, session: WebSession | None, cookie: str, path: str, *, shared: bool = False
    ) -> str:
        """A token for a form that is sent to this path.

        `shared`: the same one on all pages of the session.  Otherwise a form that is on each page
        would push out the tokens of forms in other tabs.
        """
        if session is None:
            at = str(int(self._clock()))
            return f"{at}.{self._anonymous(cookie, path, at)}"
        with self._lock:
            if shared and (found := next((t for t, p in session.forms.items() if p == path), "")):
                session.forms.move_to_end(found)
                return found
            token = secrets.token_urlsafe(18)
            session.forms[token] = path
            while len(session.forms) > _FORMS:
                session.forms.popitem(last=False)
        return token

    def take_form(self, session: WebSession | None, cookie: str, path: str, token: str) -> bool:
        """Whether this form is valid; within a session only once."""
        if session is not None:
            with self._lock:
                return session.forms.pop(token, None) == path
        at, _, proof = token.partition(".")
        if not cookie or not at.isascii() or not at.isdigit() or len(at) > 15:
            return False
        if not 0 <= self._clock() - int(at) < _FORM_FOR:
            return False
        wanted = self._anonymous(cookie, path, at)
        return hmac.compare_digest(wanted.encode(), proof.encode("utf-8", "replace"))

    def _anonymous(self, cookie: str, path: str, at: str) -> str:
        text = "\n".join((cookie, path, at)).encode("utf-8", "replace")
        return hmac.new(self._key, text, "sha256").hexdigest()


def new_cookie() -> str:
    """A random number that cannot be guessed."""
    return secrets.token_urlsafe(32)


def _name(cookie: str) -> bytes:
    """The stored hash of a cookie, so that the time of a comparison reveals nothing."""
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()
