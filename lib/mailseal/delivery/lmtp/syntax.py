# SPDX-License-Identifier: MIT
"""The syntax of LMTP paths, parameters and replies.

All arguments of commands are parsed here.  Refused, raised for a syntax error, is the
reply.  Some addresses are accepted that RFC 5321 does not allow, because they are in
use (dots anywhere in a local part, no domain).  Control characters, invalid UTF-8 and
more than 256 bytes (2048 for a sender) are never accepted.
"""

from __future__ import annotations

import re

from mailseal.errors import MailsealError

MAX_PATH = 256
MAX_SENDER = 2048
"""Postfix accepts longer senders than RFC 5321; refusing one would bounce the mail."""


# Plain classes and no `typing`: mailseal-deliver imports this for each mail, and dataclasses
# or NamedTuple would take 3 to 8 ms.
class Reply:
    """One LMTP reply: code, enhanced status code ("" for none), text."""

    __slots__ = ("code", "enhanced", "text")

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        self.code = code
        self.enhanced = enhanced
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and self.wire() == other.wire()

    def __hash__(self) -> int:
        return hash(self.wire())

    def __repr__(self) -> str:
        return f"Reply({self.code}, {self.enhanced!r}, {self.text!r})"

    def wire(self) -> bytes:
        """The reply as it is sent, with control characters replaced."""
        status = f"{self.code} {self.enhanced} " if self.enhanced else f"{self.code} "
        return f"{status}{printable(self.text)}\r\n".encode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        """Whether it reports success."""
        return 200 <= self.code < 300


class Refused(MailsealError):
    """A refused command; `reply` is the reply."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, enhanced, text)


def printable(text: str) -> str:
    """Text for a reply or a log line: one line without control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text)


def loggable_id(queue_id: str) -> str:
    """A queue id from a client, without characters that could forge parts of a log line."""
    return re.sub("[^0-9A-Za-z._-]", "?", queue_id)[:64]


# All characters except some ASCII and the C1 controls.  Written with \u00a0-\U0010ffff, each
# pattern would take 3 ms to compile, for each mail in mailseal-deliver.
_ATOM = re.compile(r'[^\x00-\x20"(),:;<>@\[\\\]\x7f-\x9f]+')
_DOMAIN = re.compile(r"[^\x00-,/:-@\[-^`{-\x9f]+|\[[A-Za-z0-9:.]+\]")
_PLAIN = re.compile(
    rb"<([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+)@([A-Za-z0-9._-]+)>(?: +([!-~][ -~]*))?", re.DOTALL
)
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*)"')
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\x00-\x20=\x7f-\x9f]+))?")


class Address:
    """A mailbox; `domain` may be empty (a local name), both are empty for <>."""

    __slots__ = ("domain", "local", "text")

    def __init__(self, local: str, domain: str) -> None:
        self.local = local
        self.domain = domain
        if (local or domain) and _ATOM.fullmatch(local) is None:
            local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
        self.text = f"{local}@{domain}" if domain else local
        """The form for headers and replies, quoted only if necessary."""

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Address({self.local!r}, {self.domain!r})"

    @property
    def ascii(self) -> bool:
        """Whether it can be sent to a server without SMTPUTF8."""
        return self.text.isascii()


def parse_path(text: bytes, *, sender: bool) -> tuple[Address, dict[str, str]]:
    """Parse `<local@domain> KEY=VALUE …` to the address and parameters, keys in upper case.

    `sender` allows <>.  Raises Refused (501, 553).
    """
    most = MAX_SENDER if sender else MAX_PATH
    quick = _PLAIN.fullmatch(text)
    if quick is not None and len(quick[1]) + len(quick[2]) < most:
        address = Address(quick[1].decode(), quick[2].decode())
        return address, _parameters(quick[3].decode()) if quick[3] else {}
    what = "sender" if sender else "recipient"
    bad = Refused(501, "5.1.7" if sender else "5.1.3", f"bad {what} address syntax")
    try:
        line = text.decode()
    except UnicodeDecodeError:
        raise bad from None
    if not line.startswith("<"):
        raise bad
    local, position = _local_part(line, bad)
    domain = ""
    if line.startswith("@", position):
        match = _DOMAIN.match(line, position + 1)
        if match is None:
            raise bad
        domain, position = match[0], match.end()
    address = Address(local, domain)
    if not line.startswith(">", position):
        raise bad
    rest = line[position + 1 :]
    if (rest and not rest.startswith(" ")) or (not local and (domain or not sender)):
        raise bad
    if len(str(address).encode()) > most:
        raise Refused(501, "5.1.7" if sender else "5.1.3", f"{what} address too long")
    return address, _parameters(rest.strip(" "))


def _local_part(line: str, bad: Refused) -> tuple[str, int]:
    """The unquoted local part, and its end position; skips an old source route."""
    position = 1
    if line.startswith("@", 1):
        colon = line.find(":")
        if colon < 0:
            raise bad
        position = colon + 1
    quoted = _QUOTED.match(line, position)
    if quoted is not None:
        if not quoted[1]:
            raise bad
        return re.sub(r"\\(.)", r"\1", quoted[1]), quoted.end()
    atom = _ATOM.match(line, position)
    return (atom[0], atom.end()) if atom is not None else ("", position)


def _parameters(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in text.split():
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise Refused(501, "5.5.4", "bad parameter syntax")
        key = match[1].upper()
        if key in found:
            raise Refused(501, "5.5.4", "parameter given twice")
        found[key] = match[2] or ""
    return found


def helo_name(argument: bytes) -> str | None:
    """The name that a client sends in LHLO; None if it is not valid (logged as "unknown")."""
    try:
        text = argument.decode("ascii")
    except UnicodeDecodeError:
        return None
    return text if len(text) <= 255 and _DOMAIN.fullmatch(text) is not None else None
