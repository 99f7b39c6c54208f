# SPDX-License-Identifier: MIT
"""Hangs up on servers that do not answer.

A stopped server, or a network that drops packets, leaves a client waiting: psycopg waits for
ever.  One thread for all connections of a process shuts the socket down when a request takes too
long; the driver then sees a broken connection.
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
    """Of one process, for any number of threads.  `seconds`: for one request."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._due: dict[int, float] = {}
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def limit(self, fd: int) -> Iterator[None]:
        """For this time at most the block waits for the server at this socket."""
        with self._lock:
            self._due[fd] = time.monotonic() + self._seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="patience", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            # Under the lock: afterwards the descriptor may stand for something else.
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
