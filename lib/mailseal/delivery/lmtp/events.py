# SPDX-License-Identifier: MIT
"""Events of an LMTP session; protocol.py lists the method that answers each of them."""

from __future__ import annotations

import dataclasses

from mailseal.delivery.lmtp.syntax import Address, Reply


@dataclasses.dataclass(slots=True)
class Mail:
    """MAIL FROM.  `size` is what the client announced, 0 if nothing."""

    sender: Address
    size: int
    utf8: bool
    body_8bit: bool


@dataclasses.dataclass(slots=True)
class Recipient:
    """RCPT TO."""

    address: Address


@dataclasses.dataclass(slots=True)
class Data:
    """DATA: the mail is about to come."""


@dataclasses.dataclass(slots=True)
class Piece:
    """Some bytes of the mail; pieces never split a CR LF."""

    data: bytes


@dataclasses.dataclass(slots=True)
class End:
    """The mail is over.  `reply`, if any, is for all: the mail was not taken."""

    reply: Reply | None


@dataclasses.dataclass(slots=True)
class Reset:
    """The transaction is void."""


@dataclasses.dataclass(slots=True)
class Quit:
    """The session is over."""


Event = Mail | Recipient | Data | Piece | End | Reset | Quit
