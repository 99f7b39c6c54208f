# SPDX-License-Identifier: MIT
"""A real mailseal-agent process, for tests of the agent and the commands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mailseal.login.client import AgentClient, Answer
from tests.lab.place import readable_code
from tests.lab.process import Server

HOOKS = Path(readable_code(), "hooks")
PATIENCE = 300
"""Seconds that everything may take on a busy machine."""


class AgentProcess:
    """The agent and its folder.  It runs as the user who runs the tests."""

    def __init__(self, folder: Path, options: str = "", *, user: int | None = None) -> None:
        self.folder = folder
        self.socket = folder / "run" / "agent.sock"
        self.log = folder / "agent.log"
        self.config = folder / "mailseal.yaml"
        self.user = os.getuid() if user is None else user
        command = [str(HOOKS / "mailseal-agent"), "-c", str(self.config)]
        self._server = Server("mailseal-agent", command, str(self.log))
        self.write_config(options)

    def write_config(self, options: str) -> None:
        me = os.getuid()
        self.config.write_text(
            f"state_dir: {self.folder}/state\n"
            "dovecot: {version: 2.3}\n"
            f"{'' if 'log:' in options else 'log: {to: stderr}'}\n"
            f"agent:\n  user: {self.user}\n  socket: {self.socket}\n"
            f"  admin_users: [{me}]\n  login_users: [{me}, 60604]\n"
            f"{options}"
            + ("" if "password_check" in options else "login: {password_check: keyring}\n")
        )

    def start(self) -> None:
        if not (self.folder / "state").exists():
            done = self.run("init")
            assert done.returncode == 0, done.stderr
        self._server.start(until=[str(self.socket)], timeout=PATIENCE)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        status = self._server.stop(number, timeout=PATIENCE)
        assert status is not None
        return status

    @property
    def running(self) -> bool:
        return self._server.running

    @property
    def pid(self) -> int:
        return self._server.pid

    def ask(self, verb: str, **fields: bytes) -> Answer:
        with AgentClient(str(self.socket), PATIENCE) as client:
            return client.request(verb, **fields)

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run the mailseal command."""
        return subprocess.run(
            [HOOKS / "mailseal", "-c", self.config, *arguments], input=stdin, capture_output=True
        )

    def log_text(self) -> str:
        return self.log.read_text()


USER = b"alice@example.org"
CHEAP = "keys: {kdf: insecure-testing}\n"


@contextlib.contextmanager
def running(
    folder: Path, options: str = CHEAP, *, user: int | None = None
) -> Iterator[AgentProcess]:
    """An agent that is always stopped at the end."""
    agent = AgentProcess(folder, options, user=user)
    agent.start()
    try:
        yield agent
    finally:
        if agent.running:
            agent.stop(signal.SIGKILL)
