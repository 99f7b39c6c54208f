# SPDX-License-Identifier: MIT
"""One client's connection in a worker: connects the protocol with the deliveries.

Everything here runs in the event loop of the worker and never blocks.  Slow operations (user
lookups, storing, relaying) are passed to the deliveries, which call
back when they are done; until then, nothing is read from this client.

MEMORY
    Memory is taken before bytes of a mail are read (budget.py).  The client waits for it,
    and gets 452 4.3.1 if no memory becomes free in time.  If a mail was announced with SIZE=
    and is too large at the moment, it gets this reply before it is sent.  Not counted:
    pipelined commands while a mail is delivered, at most READ bytes for each client.
"""

from __future__ import annotations

import contextlib
import socket
import time

from mailseal.delivery.daemon.budget import Hold, Request
from mailseal.delivery.daemon.parts import READ, Parts
from mailseal.delivery.daemon.peer import Peer
from mailseal.delivery.deliver import log_one
from mailseal.delivery.lmtp.events import Data, End, Event, Mail, Piece, Quit, Recipient, Reset
from mailseal.delivery.lmtp.protocol import LmtpSession
from mailseal.delivery.lmtp.syntax import Address, Reply
from mailseal.delivery.message import Envelope, Message
from mailseal.delivery.outcome import Outcome
from mailseal.delivery.route import Route

_READ_COMMANDS = 4096
"""Less is read if commands are expected: replies can be much longer than commands."""

_LEAST = 4096
"""Free bytes with which reading continues; with fewer, more memory is requested first."""

_PROGRESS = 4096
_NO_MEMORY = Reply(452, "4.3.1", "too much mail in progress, try again later")


class Connection:
    """A client.  Ends with close()."""

    def __init__(self, parts: Parts, sock: socket.socket, peer: Peer) -> None:
        self.parts = parts
        self.socket = sock
        self.fd = sock.fileno()
        self.session = LmtpSession(parts.limits, parts.hostname, trusted=peer.may_name)
        self.peer = peer
        self.deadline = 0.0
        self.writing = False
        self.reading = True
        self.closed = False
        self._out = b""
        self._draining = False
        self._fresh_bytes = 0
        self._hold: Hold | None = None
        self._request: Request | None = None
        self._envelope: Envelope | None = None
        self._routes: list[Route] = []
        self._message = Message()
        self._queue_id = ""
        self._touch()

    @property
    def busy(self) -> bool:
        """Whether the client waits for a reply; then there is no idle timeout."""
        return self.session.awaiting or self._request is not None

    def _touch(self) -> None:
        self.deadline = time.monotonic() + self.parts.idle_timeout

    # --- bytes in and out ---------------------------------------------------

    def readable(self, hung_up: bool) -> None:
        """The socket can be read.  `hung_up`: the client does not read any more.

        epoll reports a disconnected client again and again, so this must be handled at once.
        """
        if self.busy or self._out:
            if hung_up:
                self._lost("connection closed")
            else:
                self.parts.loop.pause(self)
            return
        most = _READ_COMMANDS
        if self.session.in_data:
            most = READ if self.session.discarding else self._room()
            if not most:
                return
        buffer = self.parts.loop.buffer
        try:
            count = self.socket.recv_into(buffer, most)
        except BlockingIOError:
            return
        except OSError as exc:
            self._lost(exc.strerror or "error")
            return
        if not count:
            self._lost("connection closed")
            return
        self._fresh_bytes += count
        self.session.receive(bytes(buffer[:count]))
        self.advance()

    def _room(self) -> int:
        """How many bytes of the mail may be read now; 0 if it must wait for memory."""
        budget, hold, size = self.parts.budget, self._hold, self._message.size
        assert hold is not None  # noqa: S101 - there was a DATA
        if hold.size - size < _LEAST and not budget.grow(hold, READ):

            def answer(granted: bool) -> None:
                self._request = None
                if not granted:
                    self.session.discard(_NO_MEMORY)
                self._touch()
                self.advance()

            self._request = budget.wait_to_grow(hold, READ, answer)
            self.parts.loop.pause(self)
            return 0
        return min(hold.size - size, READ)

    def advance(self) -> None:
        """Handle all events, then send the output."""
        if self.closed:
            return
        session = self.session
        while (event := session.next_event()) is not None:
            if type(event) is Piece:
                self._message.add(event.data)
                if self._fresh_bytes >= _PROGRESS:
                    self._touch()
                    self._fresh_bytes = 0
                continue
            self._touch()
            self._fresh_bytes = 0
            self._act(event)
            if self._request is not None:
                break
        if session.discarding and self._message.size:
            self._queue_id = self._named()
            self._forget_mail()
        if self._draining and not session.in_transaction and not self.busy and not session.closed:
            self._go_down()
        self._flush()

    def _go_down(self) -> None:
        name = self.session.hostname
        self.session.close(Reply(421, "4.3.2", f"{name} is shutting down, try again"))

    def _flush(self) -> None:
        out = self.session.output()
        if out or self._out:
            self._out = self._out + out if self._out else out
            try:
                sent = self.socket.send(self._out)
                self._out = self._out[sent:]
            except BlockingIOError:
                pass
            except OSError as exc:
                self._lost(exc.strerror or "error")
                return
        if self.session.closed and not self._out:
            self.close()
        else:
            self.parts.loop.watch(
                self, resume=not self.busy and not self._out, writing=bool(self._out)
            )

    def writable(self) -> None:
        """The socket can be written to again."""
        self._touch()
        self.advance()

    def timed_out(self) -> None:
        """The client was idle for too long."""
        if self.session.in_transaction:
            self.parts.log.lost(self.client, "timed out in a transaction")
        if self._out:
            self.close()  # the client does not read either
            return
        self.session.close(Reply(421, "4.4.2", f"{self.session.hostname} timed out"))
        self._flush()

    def drain(self) -> None:
        """The worker stops: finish the transaction in progress and begin no other one."""
        self._draining = True
        self.advance()

    @property
    def client(self) -> str:
        """The client's name for the log."""
        name = self.session.client or "unknown"
        return f"{name}[{self.peer}]" if str(self.peer) else name

    def _lost(self, why: str) -> None:
        if isinstance(self.session.awaited, End):
            self.parts.log.lost(
                self.client, f"{why} before the reply; the mail may be delivered again"
            )
        elif self.session.in_transaction:
            self.parts.log.lost(self.client, f"{why} in a transaction, nothing was delivered")
        self.close()

    def close(self) -> None:
        """Close the connection.  Deliveries in progress continue."""
        if self.closed:
            return
        self.closed = True
        if self._request is not None:
            self.parts.budget.withdraw(self._request)
        if not self.session.awaiting or not isinstance(self.session.awaited, End):
            self._forget_transaction()
        self.parts.loop.forget(self)
        with contextlib.suppress(OSError):
            self.socket.close()

    # --- events -------------------------------------------------------------

    def _act(self, event: Event) -> None:
        match event:
            case Recipient():
                self._recipient(event.address)
            case End():
                self._end(event)
            case Mail():
                self._mail(event)
            case Data():
                self._message = Message()
                self._hold = self.parts.budget.begin()
                self.session.accept_data()
            case Reset():
                self._forget_transaction()
            case Quit() | Piece():
                pass

    def _mail(self, mail: Mail) -> None:
        if self._draining:
            self._go_down()
            return
        client = self.session.client
        self._queue_id = self.session.ident
        self._routes = []
        self._envelope = Envelope(
            mail.sender, client, self.peer.ip, self.parts.hostname, mail.utf8, self.peer.uid
        )
        if self.parts.budget.fits(mail.size):
            self.session.accept_mail()
            return

        def answer(granted: bool) -> None:
            self._request = None
            if granted:
                self.session.accept_mail()
            else:
                self.session.refuse(_NO_MEMORY)
            self._touch()
            self.advance()

        self._request = self.parts.budget.wait_to_begin(mail.size, answer)

    def _recipient(self, address: Address) -> None:
        size = self.session.mail.size if self.session.mail is not None else 0

        def answer(result: Route | Outcome) -> None:
            if not self.closed:
                self._routed(address, result)
                self._touch()
                self.advance()

        result = self.parts.deliveries.route(address, size, answer)
        if result is not None:
            self._routed(address, result)

    def _routed(self, address: Address, result: Route | Outcome) -> None:
        if isinstance(result, Route):
            self._routes.append(result)
            self.session.accept_recipient()
            return
        sender = str(self._envelope.sender) if self._envelope is not None else ""
        queue_id = self._queue_id or "NOQUEUE"
        self.parts.log.refused(
            queue_id, sender, str(address), result.reply, result.detail, self.peer.uid
        )
        self.session.refuse(result.reply)

    def _end(self, end: End) -> None:
        envelope, message, routes = self._envelope, self._message, self._routes
        assert envelope is not None  # noqa: S101 - there was a MAIL
        if end.reply is not None:
            outcomes = [Outcome(end.reply, "none", None, end.reply.text) for _ in routes]
            self._finish(outcomes)
            return
        self.parts.deliveries.deliver(envelope, message, routes, self._finish_later)

    def _finish(self, outcomes: list[Outcome]) -> None:
        """All recipients have an outcome: log, reply, continue."""
        envelope, message = self._envelope, self._message
        assert envelope is not None  # noqa: S101
        queue_id = self._named()
        for route, done in zip(self._routes, outcomes, strict=True):
            log_one(self.parts.log, queue_id, route.address, envelope, message, done)
        if not self.closed:
            self.session.finish([done.reply for done in outcomes])
            self._touch()
        self._forget_transaction()

    def _finish_later(self, outcomes: list[Outcome]) -> None:
        """Callback of the deliveries; calls _finish()."""
        self._finish(outcomes)
        self.advance()

    def _named(self) -> str:
        """The queue id for the log.  Mail of local users has none: they could forge it."""
        if self.peer.uid is not None:
            return "NOQUEUE"
        return self._queue_id or self._message.queue_id()

    def _forget_mail(self) -> None:
        self._message = Message()
        if self._hold is not None:
            self.parts.budget.release(self._hold)
            self._hold = None

    def _forget_transaction(self) -> None:
        self._forget_mail()
        self._routes = []
        self._envelope = None
        self._queue_id = ""
