# SPDX-License-Identifier: MIT
"""Runs mailseal-lmtp with a template user database, for the tests of delivery.

    with Daemon(folder, {"delivery": {"workers": 1}}) as daemon:
        daemon.enroll("alice@example.org")
        client = daemon.connect()

It runs as an unprivileged user if the tests run as root, otherwise as the current user.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from mailseal.crypto.dcrypt import open_sealed
from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.public import PublicStore
from tests.lab.place import MAIL_UID, free_ports, readable_code
from tests.lab.process import PATIENCE, Server, children, wait_until

HOSTNAME = "mx.example.org"

ALICE = "alice@example.org"


class Daemon:
    """One daemon, in its own folder below /tmp, because names of unix sockets must be short."""

    def __init__(self, settings: dict[str, dict[str, Any]] | None = None) -> None:
        self.uid = MAIL_UID if os.geteuid() == 0 else os.geteuid()
        self.dir = tempfile.mkdtemp(prefix="mailseal-t-")
        os.chmod(self.dir, 0o755)
        self.keys: dict[str, PrivateKey] = {}
        self.store = PublicStore(self.path("state", "public"))
        os.makedirs(self.path("state"))
        self.store.prepare()
        for name in ("homes", "log", "run"):
            os.makedirs(self.path(name))
            self._give(self.path(name))
        self.log_path = self.path("log", "mailseal.log")
        self.socket = self.path("run", "lmtp.sock")
        self.deliver_socket = self.path("run", "deliver.sock")
        self.tcp = ("127.0.0.1", free_ports(1)[0])
        self.settings: dict[str, Any] = {
            "state_dir": self.path("state"),
            "log": {"to": self.log_path},
            "dovecot": {"lmtp_socket": self.path("dovecot-lmtp"), "timeout": "3s"},
            "delivery": {
                "user": self.uid,
                "hostname": HOSTNAME,
                "listen": [self.socket, f"{self.tcp[0]}:{self.tcp[1]}"],
                "socket_group": self.uid if os.geteuid() == 0 else os.getegid(),
                "postfix_user": self.uid,
                "deliver_socket": None,
                "userdb": "template",
                "home": self.path("homes", "%d", "%n"),
                "secrets_ahead": 1,
                **((settings or {}).get("delivery", {})),
            },
        }
        self.settings["dovecot"].update((settings or {}).get("dovecot", {}))
        self.config = self.path("mailseal.yaml")
        self.write_config()
        # The Python of the tests, with its pinned libraries.
        hook = os.path.join(readable_code(), "hooks", "mailseal-lmtp")
        self.server = Server("mailseal-lmtp", self.command(hook), self.path("stderr"))

    def command(self, hook: str) -> list[str]:
        """The daemon's command line."""
        return ["/usr/bin/python3", "-I", hook, "-c", self.config]

    def path(self, *parts: str) -> str:
        return os.path.join(self.dir, *parts)

    def write_config(self) -> None:
        with open(self.config, "w", encoding="utf-8") as stream:
            yaml.safe_dump(self.settings, stream)
        os.chmod(self.config, 0o644)

    def _give(self, path: str) -> None:
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.uid)

    def add_user(self, user: str) -> str:
        """Add a user with a home, not enrolled; returns the home."""
        local, _, domain = user.partition("@")
        home = self.path("homes", domain, local)
        os.makedirs(home, exist_ok=True)
        for path in (os.path.dirname(home), home):
            self._give(path)
        return home

    def enroll(self, user: str) -> PrivateKey:
        """Add a user with a home and a key pair."""
        self.add_user(user)
        key = PrivateKey.generate()
        self.keys[user] = key
        self.store.publish(user, key.public)
        return key

    def maildir(self, user: str) -> str:
        local, _, domain = user.partition("@")
        return self.path("homes", domain, local, "Maildir")

    def files(self, user: str, folder: str = "new") -> list[str]:
        """Paths of a user's mails, oldest first."""
        path = os.path.join(self.maildir(user), folder)
        try:
            return [os.path.join(path, name) for name in sorted(os.listdir(path))]
        except FileNotFoundError:
            return []

    def mails(self, user: str) -> list[bytes]:
        """The text of a user's mails."""
        found = []
        for path in self.files(user):
            with open(path, "rb") as stream:
                found.append(b"".join(open_sealed(stream, self.keys.values())))
        return found

    def everything_delivered(self) -> list[str]:
        """All files in all Maildirs, including tmp/."""
        return [
            os.path.join(folder, name)
            for folder, _, names in os.walk(self.path("homes"))
            for name in names
            if os.path.basename(folder) in ("tmp", "new", "cur")
        ]

    def log_text(self) -> str:
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, encoding="utf-8") as stream:
            return stream.read()

    def connect(self, timeout: float = PATIENCE, path: str = "") -> Client:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(path or self.socket)
        return Client(sock)

    def connect_tcp(self, timeout: float = PATIENCE) -> Client:
        return Client(socket.create_connection(self.tcp, timeout))

    def __enter__(self) -> Daemon:
        self.server.start(until=[self.socket, self.tcp])
        wait_until(lambda: "listening on" in self.log_text(), "the workers are started")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the daemon, if it runs, and remove the folder.  It does not wait for clients."""
        self.server.stop(timeout=5)
        shutil.rmtree(self.dir, ignore_errors=True)


class Client:
    """A simple LMTP client: sends bytes, reads lines."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._file = sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> str:
        """The next line without its end; "" if the server has closed the connection."""
        return self._file.readline().decode().removesuffix("\n").removesuffix("\r")

    def reply(self) -> str:
        """The last line of the next reply."""
        while re.match(r"\d{3}-", line := self.line()):
            pass
        return line

    def command(self, text: str) -> str:
        self.send(text.encode() + b"\r\n")
        return self.reply()

    def hello(self) -> Client:
        assert self.reply().startswith("220 ")
        assert self.command("LHLO client.example.com").startswith("250 ")
        return self

    def mail(self, recipients: list[str], body: bytes, sender: str = "s@example.com") -> list[str]:
        """Run a transaction in which all recipients are accepted; returns the final replies."""
        assert self.command(f"MAIL FROM:<{sender}>").startswith("250 ")
        for recipient in recipients:
            answer = self.command(f"RCPT TO:<{recipient}>")
            assert answer.startswith("250 "), answer
        assert self.command("DATA").startswith("354 ")
        return [self.mail_sent(body), *(self.reply() for _ in recipients[1:])]

    def mail_sent(self, body: bytes) -> str:
        """Send the mail, or the rest of it, after DATA; returns the first final reply."""
        self.send(stuffed_body(body) + b".\r\n")
        return self.reply()

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def stuffed_body(body: bytes) -> bytes:
    """The mail as it is sent; lines must end with CR LF."""
    return re.sub(rb"(\A|\r\n)\.", rb"\1..", body)


@contextlib.contextmanager
def running(**delivery: Any) -> Iterator[Daemon]:
    """A daemon with one worker, for ALICE, who is enrolled."""
    with Daemon({"delivery": {"workers": 1, **delivery}}) as daemon:
        daemon.enroll(ALICE)
        yield daemon


def workers(daemon: Daemon) -> list[int]:
    """Their process ids."""
    return children(daemon.server.pid)


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    wait_until(condition, "the condition is true", timeout=seconds)


def memory(pid: int, field: str) -> int:
    """A value of /proc/PID/status, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as stream:
        match = re.search(rf"{field}:\s+(\d+) kB", stream.read())
    assert match is not None
    return int(match[1]) * 1024


def cpu(pid: int) -> float:
    """CPU time of all threads, in seconds."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
        fields = stream.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
