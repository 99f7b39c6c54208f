# SPDX-License-Identifier: MIT
"""Logs in to IMAP, POP3, SMTP submission and ManageSieve of this machine, as a mail client does.

Passwords are sent with AUTH PLAIN.  STARTTLS is used wherever a server offers it.  Certificates are
not checked: these are connections to this machine, by address.

FAILURES
    Refused: no connection, or the server does not accept the login or a command; then the text is
    the server's.
"""

from __future__ import annotations

import base64
import contextlib
import imaplib
import poplib
import re
import smtplib
import socket
import ssl
from collections.abc import Iterator, Sequence

from mailseal.admin.doctor.listeners import Listener

TIMEOUT = 30.0
"""Seconds for each reply of a server."""

_MAX_LINE = 65536


class Refused(Exception):
    """See the module's docstring."""


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _plain(user: str, password: bytes) -> bytes:
    return b"\0" + user.encode() + b"\0" + password


def _in_base64(user: str, password: bytes) -> str:
    return base64.b64encode(_plain(user, password)).decode()


@contextlib.contextmanager
def imap(at: Listener, user: str, password: bytes) -> Iterator[imaplib.IMAP4]:
    """A connection that is logged in."""
    with _refusing(at):
        connection: imaplib.IMAP4
        if at.tls:
            connection = imaplib.IMAP4_SSL(at.host, at.port, ssl_context=_tls(), timeout=TIMEOUT)
        else:
            connection = imaplib.IMAP4(at.host, at.port, timeout=TIMEOUT)
        try:
            if not at.tls and "STARTTLS" in connection.capabilities:
                connection.starttls(_tls())
            connection.authenticate("PLAIN", lambda _: _plain(user, password))
            yield connection
        finally:
            with contextlib.suppress(imaplib.IMAP4.error, OSError):
                connection.logout()


def ok(answer: tuple[str, Sequence[object]]) -> list[bytes]:
    """The data of an answer of imaplib.  Raises Refused for NO."""
    status, data = answer
    parts = [
        b"".join(p for p in one if isinstance(p, bytes)) if isinstance(one, tuple) else one
        for one in data
    ]
    found = [one for one in parts if isinstance(one, bytes)]
    if status != "OK":
        raise Refused(b" ".join(found).decode("utf-8", "replace"))
    return found


def pop3_last(at: Listener, user: str, password: bytes) -> bytes:
    """The last mail in INBOX, by POP3; it is not deleted."""
    with _refusing(at):
        connection: poplib.POP3
        if at.tls:
            connection = poplib.POP3_SSL(at.host, at.port, context=_tls(), timeout=TIMEOUT)
        else:
            connection = poplib.POP3(at.host, at.port, timeout=TIMEOUT)
        try:
            if not at.tls and "STLS" in connection.capa():
                connection.stls(_tls())
            connection.user(user)
            connection.pass_(password.decode("utf-8", "replace"))
            number, _ = connection.stat()
            return b"\r\n".join(connection.retr(number)[1])
        finally:
            with contextlib.suppress(poplib.error_proto, OSError):
                connection.quit()


def submission(at: Listener, user: str, password: bytes) -> None:
    """Log in to SMTP, and send nothing."""
    with _refusing(at):
        connection: smtplib.SMTP
        if at.tls:
            connection = smtplib.SMTP_SSL(at.host, at.port, context=_tls(), timeout=TIMEOUT)
        else:
            connection = smtplib.SMTP(at.host, at.port, timeout=TIMEOUT)
        try:
            connection.ehlo()
            if not at.tls and connection.has_extn("starttls"):
                connection.starttls(context=_tls())
                connection.ehlo()
            if not connection.has_extn("auth"):
                raise Refused("the server does not offer AUTH")
            code, text = connection.docmd("AUTH", f"PLAIN {_in_base64(user, password)}")
            if code != 235:
                raise Refused(f"{code} {text.decode('utf-8', 'replace')}")
        finally:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                connection.quit()


def managesieve(at: Listener, user: str, password: bytes) -> None:
    """Log in to ManageSieve (RFC 5804), and log out."""
    with _refusing(at), contextlib.ExitStack() as stack:
        raw = stack.enter_context(socket.create_connection((at.host, at.port), TIMEOUT))
        stream = stack.enter_context(raw.makefile("rwb", buffering=0))
        offered = _sieve_reply(stream)
        if "STARTTLS" in offered:
            stream.write(b"STARTTLS\r\n")
            _sieve_reply(stream)
            raw = stack.enter_context(_tls().wrap_socket(raw))
            stream = stack.enter_context(raw.makefile("rwb", buffering=0))
            _sieve_reply(stream)
        response = _in_base64(user, password).encode()
        stream.write(b'AUTHENTICATE "PLAIN" {%d+}\r\n%s\r\n' % (len(response), response))
        _sieve_reply(stream)
        stream.write(b"LOGOUT\r\n")


def _sieve_reply(stream: socket.SocketIO) -> str:
    """The lines before OK.  Literals occur in refusals only, and are not needed."""
    lines: list[str] = []
    while line := stream.readline(_MAX_LINE).decode("utf-8", "replace"):
        if re.match(r"OK\b", line, re.IGNORECASE):
            return "".join(lines)
        if re.match(r"(NO|BYE)\b", line, re.IGNORECASE):
            raise Refused(line.strip())
        lines.append(line)
    raise Refused("the server closed the connection")


@contextlib.contextmanager
def _refusing(at: Listener) -> Iterator[None]:
    """The errors of the libraries as Refused."""
    try:
        yield
    except smtplib.SMTPException as exc:  # an OSError
        raise Refused(str(exc)) from None
    except (imaplib.IMAP4.error, poplib.error_proto) as exc:
        said = exc.args[0] if exc.args else ""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise Refused(text or "the server closed the connection") from None
    except OSError as exc:
        raise Refused(f"no connection to port {at.port}: {exc}") from None
