# SPDX-License-Identifier: MIT
"""mailseal-deliver: delivers one mail from standard input, for pipe(8) and similar programs.

SYNOPSIS
    mailseal-deliver [-c CONFIG] [-s SOCKET] [-f SENDER] [-q QUEUEID] [-d RECIPIENT] RECIPIENT...

DESCRIPTION
    Passes the mail to the running mailseal-lmtp.  If it is not running, delivers the
    mail itself, as delivery.user.  Lines may end with LF or CR LF.  An mbox "From "
    line at the beginning is removed; without -f, it contains the sender.

    -s   the daemon's socket.  With it, or without -c, no configuration is
         read while the daemon answers (default /run/mailseal/deliver.sock).
    -d   a recipient, as dovecot-lda(1) takes it
    -q   Postfix's queue id, for the log

    Several recipients are allowed, but there is one exit status for all, and
    it is the worst one: with pipe(8) use `NAME_destination_recipient_limit = 1`.

    Standard input is always read to the end first: an exit status of 0 before that loses mail.

DIAGNOSTICS
    0 delivered.  75 temporary failure.  67 no such user, 65 the mail is too large,
    77 refused: with these three, Postfix bounces the mail.  Wrong usage is 75, because
    64 would bounce too.  On failure it prints one short line, `4.X.X text`, for the
    bounce or mailq.  After delivery.deadline (with -s or the default socket: 5 minutes)
    it exits with 75.
"""

from __future__ import annotations

import os
import signal

from mailseal.delivery.dovecot.relay import Relay
from mailseal.delivery.lmtp.syntax import Address, Refused, Reply, parse_path, printable
from mailseal.delivery.message import Envelope, Message
from mailseal.errors import (
    EX_DATAERR,
    EX_NOPERM,
    EX_NOUSER,
    EX_OK,
    EX_TEMPFAIL,
    MailsealError,
    TemporaryError,
    UsageError,
)

TYPE_CHECKING = False  # `typing` takes 3 ms to import; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import BinaryIO, NoReturn

DEFAULT_SOCKET = "/run/mailseal/deliver.sock"
_DEADLINE = 300
_READ = 1 << 20
_TAKES_VALUE = ("-c", "-s", "-f", "-q", "-d")


class _Options:
    """The options and arguments, with their defaults."""

    def __init__(self, argv: Sequence[str]) -> None:
        # Parsed by hand: getopt imports gettext, which takes 8 ms of the 40 ms for a mail.
        given: dict[str, str] = {}
        self.recipients: list[str] = []
        words = iter(argv)
        for word in words:
            option, value = word[:2], word[2:]
            if option == "--":
                self.recipients += words
            elif option in _TAKES_VALUE:
                value = value or next(words, "\0")
                if value == "\0":
                    raise UsageError(f"option {option} needs a value")
                if option == "-d":
                    self.recipients.append(value)
                else:
                    given[option] = value
            elif word.startswith("-"):
                raise UsageError(f"unknown option {option}")
            else:
                self.recipients.append(word)
        self.config: str | None = given.get("-c")
        self.socket: str | None = given.get("-s")
        self.sender: str | None = given.get("-f")
        self.queue_id: str | None = given.get("-q")
        if not self.recipients:
            raise UsageError("no recipient given")


def main(argv: Sequence[str], stdin: BinaryIO, environ: Mapping[str, str]) -> int:
    """Run the program; returns the exit status."""
    del environ
    os.umask(0o077)
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(_DEADLINE)
    try:
        message, mbox_sender = read_mail(stdin)
        options = _Options(argv)
        replies = _deliver(options, message, mbox_sender)
    except Refused as refused:
        replies = [refused.reply]
    except MailsealError as error:
        # Mail must not bounce because of a wrong configuration or command line.
        replies = [Reply(451, "4.3.5", str(error))]
    worst = max(replies, key=_badness)
    if worst.ok:
        return EX_OK
    _say(worst)
    return exit_status(worst)


def _say(reply: Reply) -> None:
    # No LF at the end: pipe(8) would show it as a space.
    text = printable(reply.text.replace("\n", " "))[:200]
    _write(f"{reply.enhanced} {text}".encode("utf-8", "replace"))


def _write(text: bytes) -> None:
    """Write to stdout, and ignore errors: only the exit status is important."""
    try:
        os.write(1, text)
    except OSError:
        return


def _too_late(_number: int, _frame: object) -> NoReturn:
    _write(b"4.4.7 delivery took too long")
    os._exit(EX_TEMPFAIL)


def _badness(reply: Reply) -> int:
    """Order of replies: a deferral counts more than a bounce, because it is tried again."""
    return 0 if reply.ok else 2 if reply.code < 500 else 1


def exit_status(reply: Reply) -> int:
    """The exit status for a reply; 75 for everything that is not certainly a 5xx."""
    if reply.ok:
        return EX_OK
    if not 500 <= reply.code < 600:
        return EX_TEMPFAIL
    if reply.enhanced.startswith("5.1."):
        return EX_NOUSER
    if reply.enhanced.startswith(("5.3.4", "5.6.")):
        return EX_DATAERR
    return EX_NOPERM


def read_mail(stdin: BinaryIO) -> tuple[Message, str | None]:
    """The mail on stdin with CR LF line ends, and the sender in an mbox "From " line."""
    message = Message()
    sender: str | None = None
    first = True
    carry = b""
    while data := stdin.read(_READ):
        data = carry + data
        if first and data.startswith(b"From "):
            line, end, rest = data.partition(b"\n")
            if end:
                data = rest
                sender = line.split(b" ")[1].decode("utf-8", "replace")
        first = False
        # A CR at the end is kept for the next piece, so that no CR LF is split.
        carry = b"\r" if data.endswith(b"\r") else b""
        message.add(_with_crlf(data[: len(data) - len(carry)]))
    if carry:
        message.add(carry)
    if message.pieces and not message.pieces[-1].endswith(b"\n"):
        message.add(b"\r\n")
    return message, sender


def _with_crlf(data: bytes) -> bytes:
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    return data.replace(b"\n", b"\r\n")


def _deliver(options: _Options, message: Message, mbox_sender: str | None) -> list[Reply]:
    sender = options.sender if options.sender is not None else mbox_sender or ""
    if sender.upper() in ("MAILER-DAEMON", "<>"):
        sender = ""
    try:
        known = _address(sender, sender=True)
    except Refused as refused:
        # Not "user unknown": the sender is wrong, and an administrator must check why.
        raise TemporaryError(f"invalid sender: {refused.reply.text}") from None
    envelope = Envelope(known, "localhost", "", "localhost")
    recipients = [_address(recipient, sender=False) for recipient in options.recipients]
    envelope.utf8 = not all(a.ascii for a in (envelope.sender, *recipients))
    sockets: list[str | tuple[str, int]] = [options.socket or DEFAULT_SOCKET]
    if options.config is not None and options.socket is None:
        from mailseal import config as configuration

        config = configuration.load(options.config)
        signal.alarm(config.delivery.deadline)
        own = config.delivery.deliver_socket
        names = (own,) if own is not None else config.delivery.listen
        sockets = [configuration.socket_address(name) for name in names]
    for address in sockets:
        replies = _by_daemon(address, envelope, recipients, message, options.queue_id)
        if replies is not None:
            return replies
    from mailseal.delivery.single import deliver_alone

    return deliver_alone(options.config, options.queue_id, envelope, recipients, message)


def _by_daemon(
    address: str | tuple[str, int],
    envelope: Envelope,
    recipients: list[Address],
    message: Message,
    queue_id: str | None,
) -> list[Reply] | None:
    """The daemon's replies; None if no daemon listens."""
    daemon = Relay(address, _DEADLINE, "localhost", "mailseal-lmtp")
    replies: list[Reply] = []
    for recipient in recipients:
        reply = daemon.deliver_if_there(envelope, recipient, message, queue_id)
        if reply is None:
            return (
                None
                if not replies
                else [*replies, Reply(451, "4.3.0", "the daemon closed the connection")]
            )
        replies.append(reply)
    return replies


def _address(text: str, *, sender: bool) -> Address:
    raw = os.fsencode(text)
    if not raw.startswith(b"<"):
        raw = b"<" + raw + b">"
    try:
        address, parameters = parse_path(raw, sender=sender)
    except Refused:
        # pipe(8) without flags=q removes the quotes of `"a b"@example.org`.
        local, at, domain = raw[1:-1].rpartition(b"@")
        quoted = local.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        address, parameters = parse_path(b'<"' + quoted + b'"' + at + domain + b">", sender=sender)
    if parameters:
        raise Refused(501, "5.1.3", "bad address syntax")
    return address
