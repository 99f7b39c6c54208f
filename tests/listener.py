# SPDX-License-Identifier: MIT
"""The listening half of a test's own server: what it says is the test's."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


def unix_listener(path: str) -> socket.socket:
    """A unix socket at `path` that listens."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


def serve(listener: socket.socket, talk: Callable[[socket.socket], None]) -> None:
    """Let `talk` have each client, in a thread of its own; afterwards it is disconnected."""

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                threading.Thread(target=served, args=(client,), daemon=True).start()

    def served(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            talk(client)

    threading.Thread(target=accept, daemon=True).start()
