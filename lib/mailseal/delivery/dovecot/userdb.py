# SPDX-License-Identifier: MIT
"""Looks up recipients and their mail locations at Dovecot's auth-userdb socket.

CONTRACT
    lookup(address) returns an Account, or None if the user certainly does
    not exist.  In all other cases (no socket, FAIL, timeout, an invalid
    reply) it raises TemporaryError: the mail stays in the queue.
    The name in the reply is Dovecot's final user name, after auth_username_format and
    all userdbs, with the settings of protocol lmtp.

PROTOCOL (auth master protocol, version 1; text lines, fields separated by TAB, in which
TAB, LF, CR, NUL and 0x01 are written as 0x01 and a letter)
    -> VERSION 1 0            <- VERSION 1 n, SPID pid
    -> USER id name service=lmtp
    <- USER id name field=value …  |  NOTFOUND id  |  FAIL id [reason=…]
Connections are kept and shared by the threads of a worker.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
import types
from collections.abc import Mapping

from mailseal.config import Config, socket_address
from mailseal.delivery.dovecot.lines import Broken, Lines
from mailseal.delivery.dovecot.location import Account, expand, layout_of, maildir_of
from mailseal.delivery.dovecot.template import Template
from mailseal.errors import BadUserName, TemporaryError
from mailseal.keys.names import normalise

_MAX_ANSWER = 1 << 18
NONE: Mapping[str, str] = types.MappingProxyType({})
"""No settings of Dovecot that mailseal needs."""

_ESCAPES = {"0": "\0", "1": "\x01", "t": "\t", "n": "\n", "r": "\r"}
_UNESCAPES = {v: f"\x01{k}" for k, v in _ESCAPES.items()}


def escape(text: str) -> str:
    """Escape a field of the auth protocol."""
    return re.sub("[\0\x01\t\n\r]", lambda m: _UNESCAPES[m[0]], text)


def unescape(text: str) -> str:
    """Unescape a field of the auth protocol."""
    return re.sub("\x01(.)", lambda m: _ESCAPES.get(m[1], m[1]), text, flags=re.DOTALL)


class _Connection:
    """One connection to the auth-userdb socket, used by one thread at a time."""

    def __init__(self, address: str | tuple[str, int], timeout: float) -> None:
        self._peer = Lines(address, timeout, _MAX_ANSWER)
        self._number = 0
        self._peer.send(b"VERSION\t1\t0\n")

    def close(self) -> None:
        self._peer.close()

    def user(self, name: str) -> list[str] | None:
        """The fields of an answer, beginning with the name; None for NOTFOUND."""
        self._number += 1
        number = str(self._number)
        self._peer.send(f"USER\t{number}\t{escape(name)}\tservice=lmtp\n".encode())
        while True:
            fields = self._line().split("\t")
            if fields[0] == "VERSION":
                if len(fields) < 2 or fields[1] != "1":
                    raise TemporaryError("Dovecot's auth process uses another protocol version")
            elif fields[0] == "CUID":
                raise TemporaryError("dovecot.userdb_socket is a login socket, not auth-userdb")
            elif fields[0] in ("USER", "NOTFOUND", "FAIL"):
                return self._answer(number, fields)

    @staticmethod
    def _answer(number: str, fields: list[str]) -> list[str] | None:
        if len(fields) < 2 or fields[1] != number:
            raise TemporaryError("Dovecot's auth process sent an unexpected reply")
        if fields[0] == "NOTFOUND":
            return None
        if fields[0] == "FAIL":
            raise TemporaryError("Dovecot's user lookup failed; see Dovecot's log")
        if len(fields) < 3 or not fields[2]:
            raise TemporaryError("Dovecot's auth process returned no user name")
        return [unescape(field) for field in fields[2:]]

    def _line(self) -> str:
        try:
            return self._peer.line().decode()
        except UnicodeDecodeError:
            raise TemporaryError("Dovecot's auth process sent a reply that is not UTF-8") from None


class DovecotUserdb:
    """Dovecot's user databases, with any driver.

    `settings` are Dovecot's settings of the mail location; None if they are not known
    (settings.py).  Fields of the user override them.
    """

    def __init__(self, config: Config, settings: Mapping[str, str] | None = NONE) -> None:
        self._address = socket_address(config.dovecot.userdb_socket)
        self._settings = settings
        self._timeout = float(config.dovecot.timeout)
        self._maildir = config.delivery.maildir
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()

    def lookup(self, address: str) -> Account | None:
        """See the module's contract."""
        if any(ord(c) < 32 for c in address):
            return None
        fields = self._ask(address)
        return None if fields is None else self._account(fields)

    def _ask(self, name: str) -> list[str] | None:
        """Use a kept connection.  If it is broken (Dovecot was restarted), use a new one."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            fresh = connection is None
            try:
                connection = connection or _Connection(self._address, self._timeout)
                fields = connection.user(name)
            except TemporaryError as exc:
                if connection is not None:
                    connection.close()
                if not isinstance(exc, Broken):
                    raise
                if fresh or exc.timed_out:
                    raise TemporaryError(
                        f"cannot ask Dovecot at {self._address}: {exc}",
                        hint="is Dovecot running? see `systemctl status dovecot`",
                    ) from None
                continue
            with self._lock:
                self._idle.append(connection)
            return fields

    def _account(self, fields: list[str]) -> Account:
        values: dict[str, str] = {}
        for field in fields[1:]:
            key, _, value = field.partition("=")
            values[key] = value
        own = "mail" in values  # 2.4 splits it into the other settings
        located = own or self._settings is not None
        settings = self._settings or NONE
        values = {**(NONE if own else settings), **values}
        home = values.get("home", "")
        site_home = settings.get("mail_home", "")
        chroot = values.get("chroot", "") or "/./" in (home or site_home)
        try:
            user = normalise(fields[0])
            home = home or expand(site_home, user) or ""
            maildir = None if chroot else maildir_of(values, user, home, self._maildir)
            number = values.get("uid", settings.get("mail_uid"))
            uid = int(number) if number is not None else None
        except BadUserName:
            return Account(fields[0], home, None, None, values)
        except ValueError:
            raise TemporaryError("Dovecot's auth process returned an invalid uid") from None
        layout = layout_of(values)
        return Account(user, home, maildir, uid, values, layout, fields[0], located)


class Cached:
    """Keeps results for a few seconds, for further mails to the same recipient.

    With the cache a lookup takes 1 us, without it 150 us and a thread.
    """

    def __init__(self, source: Template | DovecotUserdb, seconds: float) -> None:
        self._source = source
        self._seconds = seconds
        self._kept: dict[str, tuple[float, Account]] = {}

    def remembered(self, address: str) -> Account | None:
        """The result from the cache; None if it must be looked up."""
        kept = self._kept.get(address)
        return None if kept is None or kept[0] < time.monotonic() else kept[1]

    def lookup(self, address: str, *, anew: bool = False) -> Account | None:
        """The result, from the cache or a lookup.  Failures are not kept.

        `anew`: do not use the cache.
        """
        account = None if anew else self.remembered(address)
        if account is not None:
            return account
        account = self._source.lookup(address)
        # "No such user" is not cached, so that new users get mail at once.
        if account is not None and self._seconds:
            if len(self._kept) >= 10000:
                with contextlib.suppress(RuntimeError):
                    self._kept.clear()
            self._kept[address] = (time.monotonic() + self._seconds, account)
        return account


def from_config(config: Config, settings: Mapping[str, str] | None) -> Cached:
    """The user database in the configuration."""
    if config.delivery.userdb == "template":
        return Cached(Template(config), config.delivery.userdb_cache)
    return of_dovecot(config, settings)


def of_dovecot(config: Config, settings: Mapping[str, str] | None) -> Cached:
    """Dovecot's user database, at dovecot.userdb_socket."""
    return Cached(DovecotUserdb(config, settings), config.delivery.userdb_cache)
