# SPDX-License-Identifier: MIT
"""Runs the checkpassword program as Dovecot does, with an agent that answers one line."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from pathlib import Path

from mailseal.login import protocol
from tests.unit.agent_process import HOOKS

HELPER = str(HOOKS / "mailseal-checkpassword")


class FakeAgent:
    """Answers one line with another, and keeps the received line."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.answer = b"ok user=61\n"
        self.received: list[tuple[str, protocol.Fields]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                line = stream.readline()
                if line:
                    self.received.append(protocol.decode(line))
                connection.sendall(self.answer)

    def close(self) -> None:
        # wakes the thread in accept(); after close() alone, its descriptor number could be reused
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()


def run(
    path: str, *arguments: str, data: bytes = b"alice\0pw\0\0", env: dict[str, str] | None = None
) -> tuple[int, bytes, bytes]:
    """Exit status, output on descriptor 4, standard error."""
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    os.set_inheritable(in_read, True)
    os.set_inheritable(out_write, True)

    def descriptors() -> None:
        # neither may be closed by the other's dup2
        one, two = os.dup(in_read), os.dup(out_write)
        os.dup2(one, 3)
        os.dup2(two, 4)

    process = subprocess.Popen(
        [
            HELPER,
            *("--socket", path, "--public", os.path.join(os.path.dirname(path), "public")),
            *arguments,
            "/usr/lib/dovecot/checkpassword-reply",
        ],
        env={"ORIG_UID": "0", **(env or {})},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        close_fds=False,
        preexec_fn=descriptors,
    )
    os.close(in_read)
    os.close(out_write)
    with contextlib.suppress(BrokenPipeError):
        os.write(in_write, data)
    os.close(in_write)
    _, errors = process.communicate(timeout=120)
    reply = b""
    while chunk := os.read(out_read, 65536):
        reply += chunk
    os.close(out_read)
    return process.returncode, reply, errors
