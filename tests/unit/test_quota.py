# SPDX-License-Identifier: MIT
"""quota-status: all kinds of addresses; unknown results are temporary failures."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailseal import config as configuration
from mailseal.delivery.dovecot.quota import QuotaStatus
from mailseal.errors import MailboxFull, MailboxFullRefused, TemporaryError
from tests.listener import serve, unix_listener

USER = "alice@example.org"
QUESTION = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n"
    b"recipient=alice@example.org\nsize=77\n\n"
)


class Service:
    """Answers each request with `answer`, and keeps the requests."""

    def __init__(self, listener: socket.socket, name: str) -> None:
        self.name = name
        self.answer = b""
        self.asked: list[bytes] = []
        serve(listener, self._client)

    def _client(self, client: socket.socket) -> None:
        self.asked.append(client.recv(65536))
        client.sendall(self.answer)
        if not self.answer:
            client.settimeout(5)
            client.recv(1)  # sends nothing until the client closes the connection


@pytest.fixture(params=["unix", "IPv4", "IPv6"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    if request.param == "unix":
        name = str(tmp_path / "quota")
        listener = unix_listener(name)
    elif request.param == "IPv4":
        listener = socket.create_server(("127.0.0.1", 0))
        name = "127.0.0.1:{}".format(*listener.getsockname()[1:])
    else:
        try:
            listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError as exc:
            pytest.skip(f"no IPv6 here: {exc.strerror}")
        name = f"[::1]:{listener.getsockname()[1]}"
    with listener:
        yield Service(listener, name)


@pytest.fixture
def ask(service: Service) -> Callable[..., None]:
    def require(answer: bytes, over_quota: str = "defer") -> None:
        service.answer = answer
        timeout = "60s" if answer else "1s"  # only silence must end it
        text = f'dovecot: {{quota_socket: "{service.name}", timeout: {timeout}}}\n'
        config = configuration.parse(text + f"delivery: {{over_quota: {over_quota}}}\n")
        QuotaStatus(service.name, config).require_room(USER, 77)

    return require


@pytest.mark.parametrize("answer", [b"action=DUNNO\n\n", b"action=OK\n\n", b"x=y\naction=ok\n\n"])
def test_room(ask: Callable[..., None], service: Service, answer: bytes) -> None:
    ask(answer)
    assert service.asked == [QUESTION]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"552 5.2.2 Mailbox is full", "Mailbox is full"),
        (b"452 4.2.2 Mailbox is full", "Mailbox is full"),
        (b"554 5.2.2 Quota exceeded (mailbox for user is full)", "Quota exceeded (mailbox for"),
        (b"450 Try 5.1.1 times", "Try 5.1.1 times"),
        (b"550 5.7.1 over quota\x07\tnow", "over quota??now"),
        (b"REJECT Mailbox is full", "Mailbox is full"),
        (b"552", None),
        (b"552 5.2.2", None),
    ],
)
def test_the_text_for_a_full_mailbox_is_configurable(
    ask: Callable[..., None], answer: bytes, words: str | None
) -> None:
    """The option decides what happens to the mail, not the code in the text."""
    for option, error in (("defer", MailboxFull), ("reject", MailboxFullRefused)):
        with pytest.raises(error) as caught:
            ask(b"action=" + answer + b"\n\n", option)
        assert (caught.value.words or "").startswith(words or "")
        assert bool(caught.value.words) == bool(words)


def test_a_mail_larger_than_the_whole_quota(tmp_path: Path) -> None:
    """Dovecot 2.4 sends no text for it; it is full only if a mail of no size fits."""
    name = str(tmp_path / "quota")
    config = configuration.parse(f'dovecot: {{quota_socket: "{name}", timeout: 60s}}\n')
    fits = b"DUNNO"

    def answer(client: socket.socket) -> None:
        small = b"size=0\n" in client.recv(65536)
        client.sendall(b"action=" + (fits if small else b"") + b"\n\n")

    with unix_listener(name) as listener:
        serve(listener, answer)
        with pytest.raises(MailboxFull) as caught:
            QuotaStatus(name, config).require_room(USER, 77)
        assert caught.value.words == "Mailbox is full"
        fits = b"DEFER_IF_PERMIT later"
        with pytest.raises(TemporaryError):
            QuotaStatus(name, config).require_room(USER, 77)


@pytest.mark.parametrize(
    "answer",
    [
        b"action=451 4.3.0 internal error\n\n",
        b"action=DEFER_IF_PERMIT later\n\n",
        b"action=550 5.1.1 who\n\n",
        b"action=REJECT Unknown user\n\n",
        b"action=PREPEND X-Full: no\n\n",
        b"action=5522 5.2.2 what\n\n",
        b"action=\n\n",
        b"reaction=OK\n\n",
        b"\n\n",
        b"\xff" * 100000,
        b"",
    ],
)
def test_unknown_results_are_temporary(ask: Callable[..., None], answer: bytes) -> None:
    with pytest.raises(TemporaryError) as caught:
        ask(answer, "reject")
    assert not isinstance(caught.value, MailboxFull)


def test_nobody_there(tmp_path: Path) -> None:
    for name in (f"{tmp_path}/nobody", "[::1]:1", "127.0.0.1:1"):
        config = configuration.parse(f'dovecot: {{quota_socket: "{name}", timeout: 1s}}')
        with pytest.raises(TemporaryError):
            QuotaStatus(name, config).require_room(USER, 0)
