# SPDX-License-Identifier: MIT
"""Closes connections to servers that do not answer.

If a server is stopped or the network drops packets, psycopg waits without limit.  One thread for
all connections of a process shuts down the socket when a request takes too long; the driver then
reports a broken connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

_LOOK = 0.5


class Patience:
    """One for each process; several threads may use it.  `seconds`: limit for one request."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._due: dict[int, float] = {}
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def limit(self, fd: int) -> Iterator[None]:
        """Limit the time for which the block waits for the server at this socket."""
        with self._lock:
            self._due[fd] = time.monotonic() + self._seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="patience", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            # With the lock held: later the descriptor may belong to another file.
            with self._lock:
                self._due.pop(fd, None)

    def _run(self) -> None:
        while True:
            time.sleep(_LOOK)
            now = time.monotonic()
            with self._lock:
                for fd in [fd for fd, due in self._due.items() if due < now]:
                    del self._due[fd]
                    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
                        sock.shutdown(socket.SHUT_RDWR)
