# SPDX-License-Identifier: MIT
"""The LMTP client with incorrect servers: only mail that was accepted is reported as delivered."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mailseal.delivery.dovecot.relay import Relay
from mailseal.delivery.lmtp.syntax import Address, Reply
from mailseal.delivery.message import Envelope
from mailseal.errors import TemporaryError
from tests.delivery.store import mail
from tests.listener import serve, unix_listener

BODY = b"Subject: x\r\n\r\n.dot\r\n"
TO = Address("alice", "example.org")
GOOD = ["220 hi", "250-me\r\n250 PIPELINING", "250 ok", "250 ok", "354 go", "250 2.0.0 stored"]
GREETING, LHLO, MAIL, RCPT, DATA, END = range(6)


class Server:
    """Sends `replies`: a greeting, then one for each command; None closes the connection."""

    def __init__(self, path: str, replies: Sequence[str | None]) -> None:
        self.path = path
        self.taken: list[bytes] = []
        self.connections = 0
        self._replies = replies
        serve(unix_listener(path), self._client)

    def _client(self, client: socket.socket) -> None:
        self.connections += 1
        lines = client.makefile("rb")
        replies = iter(self._replies)
        body: list[bytes] = []
        in_mail = False
        while True:
            reply = next(replies, "250 ok")
            if reply is None:
                return
            if reply == "silence":
                client.settimeout(5)
                client.recv(1)
                return
            if in_mail and reply[:1] == "2":
                self.taken.append(b"".join(body))
            client.sendall(reply.encode() + b"\r\n")
            in_mail = reply.startswith("354")
            line = lines.readline()
            while in_mail and line not in (b"", b".\r\n"):
                body.append(line)
                line = lines.readline()
            if line == b"":
                return


@pytest.fixture
def delivered(tmp_path: Path) -> Callable[..., tuple[Reply, Server]]:
    def deliver(
        replies: Sequence[str | None], body: bytes = BODY, piece: int = 1000
    ) -> tuple[Reply, Server]:
        server = Server(str(tmp_path / "lmtp"), replies)
        # Only for silence the time must end; a busy machine may need longer for an answer.
        timeout = 0.5 if "silence" in replies else 60
        relay = Relay(server.path, timeout, "mx.example.org", "there")
        envelope = Envelope(Address("s", "example.com"), "client", "", "mx.example.org")
        return relay.deliver(envelope, TO, mail(body, piece)), server

    return deliver


def changed(where: int, *replies: str | None) -> list[str | None]:
    return [*GOOD[:where], *replies, *GOOD[where + 1 :]]


def test_taken(delivered: Callable[..., tuple[Reply, Server]]) -> None:
    reply, server = delivered(GOOD)
    assert reply == Reply(250, "2.0.0", "stored")
    assert server.taken == [BODY.replace(b".dot", b"..dot")]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_no_bare_line_feed_is_passed_on(
    delivered: Callable[..., tuple[Reply, Server]], piece: int
) -> None:
    """For a server that ends a mail at LF . LF, the following bytes would be commands."""
    body = b"a\n.\nMAIL FROM:<x@y>\r\n\n.\r\n\r\n.b\r\r\n.\n\n.c\rd\r\n"
    reply, server = delivered(GOOD, body, piece)
    assert reply.ok
    wire = b"a\r\n..\r\nMAIL FROM:<x@y>\r\n\r\n..\r\n\r\n..b\r\r\n..\r\n\r\n..c\rd\r\n"
    assert server.taken == [wire]


def test_the_server_may_reply_251(
    delivered: Callable[..., tuple[Reply, Server]],
) -> None:
    """RFC 5321 permits the reply 251 to RCPT."""
    reply, server = delivered(changed(RCPT, "251 2.1.5 will forward"))
    assert (reply.code, len(server.taken)) == (250, 1)


STRANGE: list[str | None] = ["299 what", "399 what", "250 ok", "354 go", "199 x", "999 x", "250"]
STRANGE += ["hello", "", "\0\xff", "421 going down", "503 sequence", "502 no", "x" * 70000]
STRANGE += ["250-never\r\n" * 9000 + "250-ends", "silence", None]


@pytest.mark.parametrize("where", range(6), ids=["greeting", "lhlo", "mail", "rcpt", "data", "end"])
@pytest.mark.parametrize("answer", STRANGE, ids=lambda text: ascii(text)[:12])
@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one-by-one"])
def test_strange_answers(
    delivered: Callable[..., tuple[Reply, Server]],
    where: int,
    answer: str | None,
    pipelining: bool,
) -> None:
    replies = changed(where, answer)
    if not pipelining and where != LHLO:
        replies[LHLO] = "250 me"
    reply, server = delivered(replies)
    if reply.ok:
        assert server.taken, reply
    else:
        assert 400 <= reply.code < 500, reply


@pytest.mark.parametrize("where", [GREETING, LHLO, MAIL, RCPT, DATA])
def test_an_additional_reply_is_no_delivery(
    delivered: Callable[..., tuple[Reply, Server]], where: int
) -> None:
    reply, server = delivered(changed(where, f"{GOOD[where]}\r\n{GOOD[where]}"))
    if reply.ok:
        assert server.taken, reply


@pytest.mark.parametrize("where", [MAIL, RCPT, DATA, END])
@pytest.mark.parametrize("code", [450, 451, 452, 550, 552, 554])
def test_a_clear_refusal_is_passed_on(
    delivered: Callable[..., tuple[Reply, Server]], where: int, code: int
) -> None:
    rest = ["503 5.5.1 sequence"] * (DATA - where)
    refused = f"{code} {code // 100}.2.3 <{TO}> no"
    reply, server = delivered([*GOOD[:where], refused, *rest])
    assert (reply.code, reply.enhanced, reply.text) == (code, f"{code // 100}.2.3", "no")
    assert server.taken == []


def test_what_turns_out_at_the_last_moment_stops_the_mail(tmp_path: Path) -> None:
    """The user is enrolled when only the end of the mail is missing: nothing is stored."""
    server = Server(str(tmp_path / "lmtp"), GOOD)
    relay = Relay(server.path, 60, "mx.example.org", "there")
    envelope = Envelope(Address("s", "example.com"), "client", "", "mx.example.org")

    def still() -> None:
        raise TemporaryError("enrolled just now")

    with pytest.raises(TemporaryError):
        relay.deliver(envelope, TO, mail(BODY, 5), still)
    assert relay.deliver(envelope, TO, mail(BODY, 5)).code == 250
    assert len(server.taken) == 1 and server.connections == 2
