# SPDX-License-Identifier: MIT
"""Events of an LMTP session; protocol.py lists the method that answers each of them."""

from __future__ import annotations

import dataclasses

from mailseal.delivery.lmtp.syntax import Address, Reply


@dataclasses.dataclass(slots=True)
class Mail:
    """MAIL FROM.  `size`: the announced size, or 0."""

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
    """DATA: the mail follows."""


@dataclasses.dataclass(slots=True)
class Piece:
    """Some bytes of the mail; pieces never split a CR LF."""

    data: bytes


@dataclasses.dataclass(slots=True)
class End:
    """The end of the mail.  `reply`, if set, is for all recipients: the mail was refused."""

    reply: Reply | None


@dataclasses.dataclass(slots=True)
class Reset:
    """The transaction was cancelled."""


@dataclasses.dataclass(slots=True)
class Quit:
    """The session has ended."""


Event = Mail | Recipient | Data | Piece | End | Reset | Quit
