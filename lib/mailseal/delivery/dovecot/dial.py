# SPDX-License-Identifier: MIT
"""Connecting to a server of this stack: Dovecot's sockets, or mailseal-lmtp's."""

from __future__ import annotations

import socket


def dial(address: str | tuple[str, int], timeout: float) -> socket.socket:
    """A connection to a unix socket's path, or to (host, port) in IPv4 or IPv6.

    `timeout`, in seconds, is for connecting and for each call afterwards.  Raises OSError.
    """
    if not isinstance(address, str):
        return socket.create_connection(address, timeout)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock
