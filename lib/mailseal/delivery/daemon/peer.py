# SPDX-License-Identifier: MIT
"""Who is at the other end of a connection.

On a unix socket the kernel tells the uid (SO_PEERCRED, unix(7)): that of Postfix, root or
delivery.user may name the queue id for the log.  Any other is a local user, and the log and
the mail's Received line say which.  On TCP nobody may, not from this host either: every
local user can connect to a port.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections.abc import Container


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """`ip` on TCP; `uid` on a unix socket, if it is not one of the trusted."""

    ip: str = ""
    uid: int | None = None
    may_name: bool = False

    def __str__(self) -> str:
        return self.ip if self.uid is None else f"uid {self.uid}"


def peer_of(sock: socket.socket, address: object, trusted: Container[int]) -> Peer:
    """The other end of an accepted connection; `address` is what accept() gave."""
    if isinstance(address, tuple):
        return Peer(ip=address[0])
    _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(may_name=True) if uid in trusted else Peer(uid=uid)
