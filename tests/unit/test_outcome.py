# SPDX-License-Identifier: MIT
"""The replies for errors: one table, and no accidental bounces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailseal import errors
from mailseal.delivery import outcome
from mailseal.delivery.lmtp.syntax import Address
from mailseal.errors import MailsealError

TO = Address("a", "b.example")

REPLIES = {
    "NoSuchUser": "550 5.1.1 <a@b.example> user unknown",
    "RecipientRefused": "550 5.7.1 <a@b.example> not taken here",
    "RecipientDeferred": "451 4.7.1 <a@b.example> not taken yet",
    "MailboxFull": "452 4.2.2 <a@b.example> mailbox full",
    "MailboxFullRefused": "552 5.2.2 <a@b.example> mailbox full",
    "DiskFull": "452 4.3.1 <a@b.example> insufficient storage",
    "Damaged": "451 4.3.5 <a@b.example> temporary failure",
    "NewerFormat": "451 4.3.5 <a@b.example> temporary failure",
}
"""The reply for all other errors."""


def classes(kind: type[MailsealError] = MailsealError) -> Iterator[type[MailsealError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from classes(below)


@pytest.mark.parametrize("kind", [k for k in classes() if k.__module__ == errors.__name__])
def test_the_reply_for_each_error(kind: type[MailsealError]) -> None:
    done = outcome.of(kind("for the log only"), TO)
    told = done.reply.wire().decode().removesuffix("\r\n")
    assert told == REPLIES.get(kind.__name__, "451 4.3.0 <a@b.example> temporary failure")
    assert done.detail == "for the log only"


def test_an_error_that_says_nothing_about_a_reply_is_temporary() -> None:
    class ThoughtOfLater(errors.UsageError):
        exit_status = errors.EX_NOPERM

    assert outcome.of(ThoughtOfLater("x"), TO).reply.code == 451


def test_a_new_refusal_is_what_its_class_says() -> None:
    class NotHere(MailsealError):
        peer_reply = 550, "5.7.7", "not here"

    assert outcome.of(NotHere("x"), TO).reply.wire() == b"550 5.7.7 <a@b.example> not here\r\n"


@pytest.mark.parametrize("reply", [(550, "4.1.1", "x"), (451, "5.1.1", "x"), (250, "2.0.0", "x")])
def test_codes_that_do_not_go_together_are_no_class(reply: tuple[int, str, str]) -> None:
    with pytest.raises(TypeError, match="do not go together"):
        type("Odd", (MailsealError,), {"peer_reply": reply})


def test_a_bug_is_temporary_and_its_text_is_not_logged() -> None:
    done = outcome.of(ZeroDivisionError("a line of a mail"), TO)
    assert done.reply.code == 451
    assert done.detail == "internal fault: ZeroDivisionError"
