# SPDX-License-Identifier: MIT
"""Asks Dovecot's anvil who is logged in: it has one entry for each running imap and pop3 process.

The processes register themselves, hibernated sessions too, and Dovecot's master removes the
entries of a process that has ended in any way.  So anvil knows when a session has ended.

PROTOCOL
    CONNECT-DUMP returns a line for each entry and an empty line.  2.3: service/address/user, pid,
    count; lmtp has no address.  2.4: first the server's version and a line of field names, which
    may be empty; then pid, user, service and more.  Fields are separated by TAB, and escaped with
    0x01.

FAILURES
    TemporaryError: anvil cannot be asked, or its answer is not complete.
"""

from __future__ import annotations

import asyncio
import contextlib

from mailseal.errors import BadUserName, TemporaryError
from mailseal.keys.names import normalise

_TIMEOUT = 10.0
# imap-hibernate too.  LMTP and all others use another index.
_READERS = (b"imap", b"pop3")
_UNESCAPED = {b"0": b"\0", b"1": b"\x01", b"t": b"\t", b"r": b"\r", b"n": b"\n"}
_HELLO = {"2.3": b"VERSION\tanvil\t1\t0\n", "2.4": b"VERSION\tanvil-client\t2\t0\n\n"}
_LIMIT = 64 << 20


async def logged_in(path: str, version: str) -> set[str]:
    """The users that have a connection, in normal form."""
    try:
        return await asyncio.wait_for(_ask(path, version), _TIMEOUT)
    except (TimeoutError, OSError, EOFError, ValueError) as exc:
        raise TemporaryError(
            f"cannot ask Dovecot at {path} who is logged in: {exc or type(exc).__name__}"
        ) from None


async def _ask(path: str, version: str) -> set[str]:
    reader, writer = await asyncio.open_unix_connection(path, limit=_LIMIT)
    try:
        writer.write(_HELLO[version] + b"CONNECT-DUMP\n")
        await writer.drain()
        if version != "2.3":
            await reader.readuntil(b"\n")
            await reader.readuntil(b"\n")
        found = set()
        while (line := (await reader.readuntil(b"\n"))[:-1]) != b"":
            fields = [_unescape(field) for field in line.split(b"\t")]
            if version == "2.3":
                service, *_, user = fields[0].split(b"/", 2)
            else:
                user, service = fields[1:3]
            if service.startswith(_READERS):
                with contextlib.suppress(BadUserName):  # not a user of mailseal
                    found.add(normalise(user))
        return found
    finally:
        writer.close()


def _unescape(field: bytes) -> bytes:
    first, *parts = field.split(b"\x01")
    return first + b"".join(_UNESCAPED.get(part[:1], part[:1]) + part[1:] for part in parts)
