# SPDX-License-Identifier: MIT
"""Where a recipient's mail lies: asked of Dovecot's auth-userdb socket, or from a template.

CONTRACT
    lookup(address) answers an Account, or None when the user certainly does
    not exist.  Anything else (no socket, FAIL, time-out, an answer that is not
    understood) raises TemporaryError: the mail stays in the queue.
    An Account whose `maildir` is None is one mailseal cannot store for (another
    format, a chroot, a layout it does not know): Dovecot must.

WIRE (auth master protocol, version 1; text lines, fields parted by TAB, in which
TAB, LF, CR, NUL and 0x01 are written as 0x01 and a letter)
    -> VERSION 1 0            <- VERSION 1 n, SPID pid
    -> USER id name service=lmtp
    <- USER id name field=value …  |  NOTFOUND id  |  FAIL id [reason=…]
Connections are kept and shared by the threads of a worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import threading
import time

from mailseal.config import Config, socket_address
from mailseal.delivery.dovecot.dial import dial
from mailseal.errors import BadUserName, TemporaryError
from mailseal.keys.names import normalise

_MAX_ANSWER = 1 << 18
_HARMLESS = ("INDEX", "INDEXPVT", "INDEXCACHE", "CONTROL", "VOLATILEDIR", "LAYOUT", "NO-NOSELECT")
_LAYOUTS = ("maildir++", "fs")  # with LAYOUT=index Dovecot's INBOX has a folder of another name
_ELSEWHERE = re.compile(r"namespace\b.*|mailbox_(?!list_(?:layout|index)).*")
"""Names of userdb fields that may put mails where the fields below do not say."""
_ESCAPES = {"0": "\0", "1": "\x01", "t": "\t", "n": "\n", "r": "\r"}
_UNESCAPES = {v: f"\x01{k}" for k, v in _ESCAPES.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """What the user database says about one user.  `uid` is None if it says nothing."""

    user: str
    home: str
    maildir: str | None
    uid: int | None
    extra: dict[str, str]
    layout: str = "maildir++"


def escape(text: str) -> str:
    """Into the form for one field of the auth protocol."""
    return re.sub("[\0\x01\t\n\r]", lambda m: _UNESCAPES[m[0]], text)


def unescape(text: str) -> str:
    """Back from a field of the auth protocol."""
    return re.sub("\x01(.)", lambda m: _ESCAPES.get(m[1], m[1]), text, flags=re.DOTALL)


def expand(template: str, user: str, home: str = "") -> str | None:
    """%u, %n, %d, %h and a leading ~ filled in; None if the template has anything else,
    or wants a home that is not known.

    Raises BadUserName if a part of the name would walk out of the path it stands in.
    """
    local, _, domain = user.partition("@")
    values = {"u": user, "n": local, "d": domain, "h": home, "%": "%"}
    if template == "~" or template.startswith("~/"):
        template = f"%h{template[1:]}"
    known = True

    def fill(match: re.Match[str]) -> str:
        nonlocal known
        known = known and match[1] in values and (match[1] != "h" or bool(home))
        value = values.get(match[1], "")
        if match[1] in "und" and ("/" in value or value in (".", "..") or "\0" in value):
            raise BadUserName(f"user name {user!r} cannot be part of a path")
        return value

    path = re.sub("%(.?)", fill, template, flags=re.DOTALL)
    if not known or not path.startswith("/") or (not domain and "%d" in template):
        return None
    return os.path.normpath(path)


def layout_of(extra: dict[str, str]) -> str:
    """How folders lie in the Maildir: "maildir++", "fs" or another of Dovecot's words."""
    for option in extra.get("mail", "").split(":")[2:]:
        if option.upper().startswith("LAYOUT="):
            return option[len("LAYOUT=") :].lower()
    return extra.get("mailbox_list_layout", "maildir++").lower()


def maildir_of(extra: dict[str, str], user: str, home: str, default: str) -> str | None:
    """The Maildir named by userdb fields in the form of 2.3 (`mail`) or 2.4 (`mail_path`).

    None if INBOX is not that Maildir itself, or may not be.
    """
    if layout_of(extra) not in _LAYOUTS or any(map(_ELSEWHERE.fullmatch, extra)):
        return None
    if "mail_driver" in extra or "mail_path" in extra or "mail_inbox_path" in extra:
        if extra.get("mail_driver", "maildir") != "maildir":
            return None
        path = expand(extra.get("mail_path") or default, user, home)
        inbox = extra.get("mail_inbox_path") or "."
        return path if inbox == "." or expand(inbox, user, home) == path else None
    location = extra.get("mail")
    if not location:
        return expand(default, user, home)
    kind, _, rest = location.partition(":")
    path, *options = rest.split(":")
    if kind != "maildir" or not path:
        return None
    maildir = expand(path, user, home)
    for option in options:
        name, _, value = option.partition("=")
        # Others put the mails elsewhere; where the index lies is no matter here.
        same = name.upper() == "INBOX" and expand(value, user, home) == maildir
        if not same and name.upper() not in _HARMLESS:
            return None
    return maildir


class Template:
    """Users as `delivery.home` lays them out: a user exists if the home does."""

    def __init__(self, config: Config) -> None:
        self._home = config.delivery.home
        self._maildir = config.delivery.maildir

    def lookup(self, address: str) -> Account | None:
        """See the module's contract."""
        try:
            user = normalise(address)
            home = expand(self._home, user)
            maildir = expand(self._maildir, user, home or "")
        except BadUserName:
            return None
        if home is None or not _is_folder(home):
            return None
        return Account(user, home, maildir, None, {})


def _is_folder(path: str) -> bool:
    """Like os.path.isdir, but trouble is trouble and not "no such user"."""
    try:
        os.stat(os.path.join(path, "."))
    except (FileNotFoundError, NotADirectoryError):
        # The folder above tells a missing user from a mount that is not there.
        if not os.path.isdir(os.path.dirname(os.path.dirname(path))):
            raise TemporaryError(f"the folder above {path} is missing") from None
        return False
    except OSError as exc:
        raise TemporaryError(f"cannot look at {path}: {exc.strerror}") from None
    return True


class _Connection:
    """One connection to the auth-userdb socket, used by one thread at a time."""

    def __init__(self, address: str, timeout: float) -> None:
        self._socket = dial(address, timeout)
        self._timeout = timeout
        self._buffer = b""
        self._number = 0
        try:
            self._socket.sendall(b"VERSION\t1\t0\n")
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def user(self, name: str) -> list[str] | None:
        """The fields of an answer, name first; None for NOTFOUND."""
        self._number += 1
        number = str(self._number)
        request = f"USER\t{number}\t{escape(name)}\tservice=lmtp\n"
        deadline = time.monotonic() + self._timeout
        self._socket.settimeout(self._timeout)
        self._socket.sendall(request.encode())
        while True:
            fields = self._line(deadline).split("\t")
            if fields[0] == "VERSION":
                if len(fields) < 2 or fields[1] != "1":
                    raise TemporaryError("Dovecot's auth speaks another protocol version")
            elif fields[0] == "CUID":
                raise TemporaryError("dovecot.userdb_socket is a login socket, not auth-userdb")
            elif fields[0] in ("USER", "NOTFOUND", "FAIL"):
                return self._answer(number, fields)

    @staticmethod
    def _answer(number: str, fields: list[str]) -> list[str] | None:
        if len(fields) < 2 or fields[1] != number:
            raise TemporaryError("Dovecot's auth answered something that was not asked")
        if fields[0] == "NOTFOUND":
            return None
        if fields[0] == "FAIL":
            raise TemporaryError("Dovecot's user lookup failed; its log says why")
        if len(fields) < 3 or not fields[2]:
            raise TemporaryError("Dovecot's auth gave no user name")
        return [unescape(field) for field in fields[2:]]

    def _line(self, deadline: float) -> str:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TemporaryError("Dovecot's user lookup timed out")
            self._socket.settimeout(left)
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError
            self._buffer += data
            if len(self._buffer) > _MAX_ANSWER:
                raise TemporaryError("Dovecot's auth gave an endless answer")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise TemporaryError("Dovecot's auth gave an answer that is not UTF-8") from None


class DovecotUserdb:
    """Dovecot's own user databases, whatever their driver."""

    def __init__(self, config: Config) -> None:
        address = socket_address(config.dovecot.userdb_socket)
        assert isinstance(address, str)  # noqa: S101 - options.py takes only a path
        self._address = address
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
        """Ask over a kept connection; a dead one (Dovecot was restarted) is tried anew once."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            fresh = connection is None
            try:
                connection = connection or _Connection(self._address, self._timeout)
                fields = connection.user(name)
            except (OSError, TemporaryError) as exc:
                if connection is not None:
                    connection.close()
                if isinstance(exc, TemporaryError):
                    raise
                if fresh or isinstance(exc, TimeoutError):
                    why = "timed out" if isinstance(exc, TimeoutError) else exc.strerror
                    raise TemporaryError(
                        f"cannot ask Dovecot at {self._address}: {why or 'closed'}"
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
        home = values.get("home", "")
        chroot = values.get("chroot", "") or ("/./" in home)
        try:
            user = normalise(fields[0])
            maildir = None if chroot else maildir_of(values, user, home, self._maildir)
            uid = int(values["uid"]) if "uid" in values else None
        except BadUserName:
            return Account(fields[0], home, None, None, values)
        except ValueError:
            raise TemporaryError("Dovecot's auth gave a uid that is no number") from None
        return Account(user, home, maildir, uid, values, layout_of(values))


class Cached:
    """Keeps answers for a few seconds: one mail asks at RCPT, the next mail need not.

    With a warm cache a lookup costs 1 us, without it 150 us and a thread.
    """

    def __init__(self, source: Template | DovecotUserdb, seconds: float) -> None:
        self._source = source
        self._seconds = seconds
        self._kept: dict[str, tuple[float, Account | None]] = {}

    def remembered(self, address: str, grace: float = 0) -> tuple[bool, Account | None]:
        """(known, answer), without asking anybody; `grace` seconds longer than usual."""
        kept = self._kept.get(address)
        if kept is None or kept[0] + grace < time.monotonic():
            return False, None
        return True, kept[1]

    def lookup(self, address: str) -> Account | None:
        """The answer, asked for if need be.  Failures are not kept."""
        # Whoever was told just now that it is known must not have to wait for Dovecot.
        known, account = self.remembered(address, 1)
        if known:
            return account
        account = self._source.lookup(address)
        # "No such user" is not kept: a user made this second should get mail.
        if account is not None and self._seconds:
            if len(self._kept) >= 10000:
                with contextlib.suppress(RuntimeError):
                    self._kept.clear()
            self._kept[address] = (time.monotonic() + self._seconds, account)
        return account


def from_config(config: Config) -> Cached:
    """The user database that the configuration names."""
    kind = config.delivery.userdb
    source = Template(config) if kind == "template" else DovecotUserdb(config)
    return Cached(source, float(config.delivery.userdb_cache))
