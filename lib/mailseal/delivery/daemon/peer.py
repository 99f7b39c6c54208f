# SPDX-License-Identifier: MIT
"""Identifies the client of a connection.

On a unix socket the kernel reports the uid (SO_PEERCRED, unix(7)).  Postfix, root and
delivery.user may send the queue id for the log.  All others are local users; their uid is
added to the log and to the Received header.  On TCP no client may send a queue id, because
all local users can connect to a port.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections.abc import Container


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """`ip`: on TCP; `uid`: on a unix socket, if it is not a trusted one."""

    ip: str = ""
    uid: int | None = None
    may_name: bool = False

    def __str__(self) -> str:
        return self.ip if self.uid is None else f"uid {self.uid}"


def peer_of(sock: socket.socket, address: object, trusted: Container[int]) -> Peer:
    """The client of an accepted connection; `address` comes from accept()."""
    if isinstance(address, tuple):
        return Peer(ip=address[0])
    _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(may_name=True) if uid in trusted else Peer(uid=uid)
