# SPDX-License-Identifier: MIT
"""Parses the arguments of MAIL, RCPT and XFORWARD into events, or refuses them."""

from __future__ import annotations

import re

from mailseal.delivery.lmtp.events import Mail, Recipient
from mailseal.delivery.lmtp.syntax import Refused, loggable_id, parse_path

_IDENT = re.compile(rb" *IDENT=((?:[!-*,-<>-~]|\+[0-9A-F]{2}){1,255}) *", re.I)


def mail_from(argument: bytes, limit: int) -> Mail:
    """`FROM:<address> KEY=VALUE …`.  `limit` is the largest mail in bytes.  Raises Refused."""
    if argument[:5].upper() != b"FROM:":
        raise Refused(501, "5.5.4", "syntax: MAIL FROM:<address>")
    sender, parameters = parse_path(argument[5:].strip(b" "), sender=True)
    size = parameters.pop("SIZE", "0")
    body = parameters.pop("BODY", "7BIT").upper()
    utf8 = parameters.pop("SMTPUTF8", None)
    if not size.isascii() or not size.isdigit() or len(size) > 20 or utf8 not in (None, ""):
        raise Refused(501, "5.5.4", "bad parameter value")
    if body not in ("7BIT", "8BITMIME"):
        raise Refused(501, "5.5.4", "unknown BODY type")
    if parameters:
        raise Refused(555, "5.5.4", "unknown MAIL parameter")
    if int(size) > limit:
        raise Refused(552, "5.3.4", f"message too large, the limit is {limit}")
    # An address in UTF-8 is accepted without SMTPUTF8 too: Postfix accepts and relays such
    # addresses, and a refusal here would cause a bounce.
    return Mail(sender, int(size), utf8 is not None, body == "8BITMIME")


def rcpt_to(argument: bytes) -> Recipient:
    """`TO:<address>`.  Raises Refused."""
    if argument[:3].upper() != b"TO:":
        raise Refused(501, "5.5.4", "syntax: RCPT TO:<address>")
    address, parameters = parse_path(argument[3:].strip(b" "), sender=False)
    if parameters:
        raise Refused(555, "5.5.4", "unknown RCPT parameter")
    return Recipient(address)


def xforward(argument: bytes) -> str:
    """`IDENT=xtext`: the client's queue id, "" if it has none.  Raises Refused.

    Only the announced part of Postfix's XFORWARD (XFORWARD_README) is supported.
    """
    match = _IDENT.fullmatch(argument)
    if match is None:
        raise Refused(501, "5.5.4", "syntax: XFORWARD IDENT=xtext")
    ident = re.sub(rb"\+(..)", lambda m: bytes.fromhex(m[1].decode()), match[1])
    if re.fullmatch(rb"[!-~]+", ident) is None:
        raise Refused(501, "5.5.4", "bad IDENT value")
    if ident.upper() == b"[UNAVAILABLE]":
        return ""
    return loggable_id(ident.decode())
