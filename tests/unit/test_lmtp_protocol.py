# SPDX-License-Identifier: MIT
"""The protocol without I/O: the same result for all splits of the input, and the right replies."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailseal.delivery.lmtp.command_lines import MAX_LINE
from mailseal.delivery.lmtp.commands import xforward
from mailseal.delivery.lmtp.events import End
from mailseal.delivery.lmtp.protocol import Limits, LmtpSession
from mailseal.delivery.lmtp.syntax import Refused, parse_path
from tests.delivery.fuzz import Peer, words

WHOLE = (
    b"LHLO me\r\nMAIL FROM:<a@b> SIZE=3\r\nRCPT TO:<c@d>\r\nRCPT TO:<x@unknown>\r\n"
    b"RCPT TO:<e@f>\r\n"
    b"DATA\r\n..\r\nx\n.\ny\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nQUIT\r\nNOOP\r\n"
)


def conversation(wire: bytes, cuts: list[int]) -> Peer:
    peer = Peer(Limits(1000, 5))
    points = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    for start, stop in itertools.pairwise(points):
        peer.give(wire[start:stop])
    return peer


@given(st.lists(st.integers(0, len(WHOLE)), max_size=30))
def test_same_result_for_any_split(cuts: list[int]) -> None:
    peer = conversation(WHOLE, cuts)
    assert peer.mails == [(["c@d", "e@f"], b".\r\nx\n.\ny\r\n"), (["c@d"], b"")]
    assert peer.out == conversation(WHOLE, []).out


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60))
def test_any_words_keep_the_rules(numbers: list[int]) -> None:
    peer = Peer(Limits(300, 4))
    for word in words(numbers):
        peer.give(word)
    peer.check()


def test_too_few_replies_are_refused() -> None:
    session = LmtpSession(Limits(1000, 5), "h")
    session.receive(b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n")
    session.next_event()
    session.accept_mail()
    session.next_event()
    session.accept_recipient()
    session.next_event()
    session.accept_data()
    assert isinstance(session.next_event(), End)
    with pytest.raises(RuntimeError):
        session.finish([])


def test_xforward_is_for_trusted_clients_only() -> None:
    session = LmtpSession(Limits(1000, 5), "h")
    session.output()
    session.receive(b"LHLO x\r\nXFORWARD IDENT=A1\r\n")
    assert session.next_event() is None
    out = session.output()
    assert b"XFORWARD" not in out
    assert out.endswith(b"\r\n550 5.7.0 insufficient authorization\r\n")
    assert session.ident == ""


@given(st.binary(max_size=300))
def test_xforward_takes_nothing_that_could_change_a_log_line(value: bytes) -> None:
    try:
        ident = xforward(b"IDENT=" + value)
    except Refused as refused:
        assert refused.reply.code == 501
        return
    assert re.fullmatch(r"[0-9A-Za-z._?-]{0,64}", ident)


def test_memory_for_a_line_is_bounded() -> None:
    peer = Peer(Limits(1000, 5))
    for _ in range(50):
        peer.give(b"x" * 1000)
        assert peer.session.buffered <= MAX_LINE + 1000


@pytest.mark.parametrize(
    ("text", "local", "domain", "shown"),
    [
        (b"<a@b>", "a", "b", "a@b"),
        (b"<a..b.@c>", "a..b.", "c", "a..b.@c"),
        (b'<"a b"@c>', "a b", "c", '"a b"@c'),
        (b'<"a\\"b"@c>', 'a"b', "c", '"a\\"b"@c'),
        (b'<"plain"@c>', "plain", "c", "plain@c"),
        (b"<postmaster>", "postmaster", "", "postmaster"),
        (b"<a@[127.0.0.1]>", "a", "[127.0.0.1]", "a@[127.0.0.1]"),
        (b"<@x,@y:a@b>", "a", "b", "a@b"),
        ("<ä@ö>".encode(), "ä", "ö", "ä@ö"),
    ],
)
def test_paths(text: bytes, local: str, domain: str, shown: str) -> None:
    address, parameters = parse_path(text, sender=False)
    assert (address.local, address.domain, str(address), parameters) == (local, domain, shown, {})


NO_PATHS = ["", "a@b", "<a@b", "<a b@c>", "<a@b>x", "<a@>", "<\x01@b>", "<a@b\r>", "<\xff@b>", "<>"]
NO_PATHS += ["<a\x7f@b>", '<"a@b>', "<@x>", f"<{'a' * 300}@b>", "<a@b> =x"]


@pytest.mark.parametrize("text", NO_PATHS)
def test_invalid_paths(text: str) -> None:
    with pytest.raises(Refused):
        parse_path(text.encode("latin-1"), sender=False)


@given(st.binary(max_size=60))
def test_path_never_fails_otherwise(text: bytes) -> None:
    try:
        address, _ = parse_path(b"<" + text + b">", sender=True)
    except Refused:
        return
    assert "\n" not in str(address)
    assert "\r" not in str(address)
    assert parse_path(f"<{address}>".encode(), sender=True)[0] == address
