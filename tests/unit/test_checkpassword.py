# SPDX-License-Identifier: MIT
"""The checkpassword helper as Dovecot runs it: descriptors 3 and 4, exit statuses, start time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.login import protocol
from tests.unit.agent_process import HOOKS

HELPER = str(HOOKS / "mailseal-checkpassword")


class FakeAgent:
    """Answers one line with another; what arrived is kept."""

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
        # wakes the thread in accept(); close() alone would leave it with a number that is reused
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    fake = FakeAgent(tmp_path / "sock")
    yield fake
    fake.close()


def run(
    path: str, *arguments: str, data: bytes = b"alice\0pw\0\0", env: dict[str, str] | None = None
) -> tuple[int, bytes, bytes]:
    """Exit status, what came on descriptor 4, standard error."""
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
        [HELPER, "--socket", path, *arguments, "/usr/lib/dovecot/checkpassword-reply"],
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
    _, errors = process.communicate(timeout=20)
    reply = b""
    while chunk := os.read(out_read, 65536):
        reply += chunk
    os.close(out_read)
    return process.returncode, reply, errors


def test_a_right_password(agent: FakeAgent) -> None:
    agent.answer = protocol.encode("ok", {"user": b"alice", "x_key": b"1", "x_password": b"2"})
    status, reply, errors = run(agent.path, env={"SERVICE": "imap", "TCPREMOTEIP": "192.0.2.1"})
    assert (status, errors) == (0, b"")
    assert reply == b"user=alice\tuserdb_x_key=1\tuserdb_x_password=2\t"
    assert agent.received == [
        (
            "unlock",
            {"user": b"alice", "password": b"pw", "service": b"imap", "remote": b"192.0.2.1"},
        )
    ]


def test_dovecots_escapes(agent: FakeAgent) -> None:
    agent.answer = protocol.encode("ok", {"user": b"a", "x": b"1\t2\n3\x014\r5\x006"})
    assert run(agent.path)[1] == b"user=a\tuserdb_x=1\x01t2\x01n3\x0114\x01r5\x0106\t"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"wrong\n", 1),
        (b"temporary reason=62757379\n", 111),
        (b"denied\n", 111),
        (b"unknown\n", 111),
        (b"error class=61 message=62\n", 111),
        (b"\n", 111),
        (b"ok user\n", 111),
        (b"ok user=zz\n", 111),
        (b"ok user=61", 111),
        (b"", 111),
        (b"\xff" * 100 + b"\n", 111),
        (b"okay user=61\n", 111),
    ],
)
def test_only_a_clear_answer_decides(agent: FakeAgent, answer: bytes, status: int) -> None:
    agent.answer = answer
    code, reply, errors = run(agent.path)
    assert (code, reply) == (status, b"")
    assert (status == 111) is bool(errors)
    assert errors.count(b"\n") <= 1 and b"Traceback" not in errors


@pytest.mark.parametrize(
    "data",
    [b"", b"alice", b"alice\0", b"alice\0pw", b"alice\0pw\0", b"alice\0pw\0\0\0", b"a\0b\0c\0d"],
)
def test_malformed_input_is_temporary(agent: FakeAgent, data: bytes) -> None:
    assert run(agent.path, data=data)[0] == 111
    assert agent.received == []


def test_ten_megabytes_of_input(agent: FakeAgent) -> None:
    in_file = Path(agent.path).with_name("in")
    in_file.write_bytes(b"alice\0" + b"x" * 10_000_000 + b"\0\0")
    done = subprocess.run(
        ["/bin/sh", "-c", f'"{HELPER}" --socket {agent.path} reply 3<{in_file} 4>/dev/null'],
        capture_output=True,
    )
    assert done.returncode == 111


def test_any_bytes_in_user_and_password(agent: FakeAgent) -> None:
    run(agent.path, data=b"\xff\n alice\0p\xfe\t\n\0\0")
    assert agent.received[0][1]["user"] == b"\xff\n alice"
    assert agent.received[0][1]["password"] == b"p\xfe\t\n"


def test_no_agent_is_temporary_and_says_so(tmp_path: Path) -> None:
    status, reply, errors = run(str(tmp_path / "nobody"))
    assert (status, reply) == (111, b"")
    assert b"is mailseal-agent running" in errors or b"cannot reach the key agent" in errors


def test_no_descriptors_is_temporary() -> None:
    done = subprocess.run([HELPER], capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 111
    assert b"not started by Dovecot" in done.stderr


@pytest.mark.parametrize("words", [("--sock",), ("--socket",)])
def test_wrong_arguments_are_temporary(words: tuple[str, ...]) -> None:
    done = subprocess.run([HELPER, *words], capture_output=True)
    assert done.returncode == 111


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (b"ok user=61 x=31\n", 2, b"userdb_x=1\t"),
        (b"unknown\n", 3, b""),
        (b"wrong\n", 111, b""),
        (b"temporary reason=62\n", 111, b""),
    ],
)
def test_lookups_without_password(
    agent: FakeAgent, answer: bytes, status: int, expected: bytes
) -> None:
    agent.answer = answer
    environment = {"AUTHORIZED": "1", "SERVICE": "lmtp"}
    code, reply, _ = run(agent.path, data=b"alice\0\0\0", env=environment)
    assert (code, reply) == (status, expected)
    assert agent.received == [("lookup", {"user": b"alice", "service": b"lmtp"})]


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (b"ok user=61 x=31\n", 0, b"userdb_x=1\t"),
        (b"unknown\n", 0, b"userdb_mail_crypt_save_version=0\t"),
        (b"wrong\n", 1, b""),
        (b"temporary reason=62\n", 111, b""),
    ],
)
def test_behind_another_passdb(
    agent: FakeAgent, answer: bytes, status: int, expected: bytes
) -> None:
    """The name stays as the other passdb has it; who is not enrolled logs in without a key."""
    agent.answer = answer
    code, reply, _ = run(agent.path, "--behind-passdb", env={"MASTER_USER": "root"})
    assert (code, reply) == (status, expected)
    assert agent.received[0][1]["behind"] == b"1"
    assert agent.received[0][1]["master"] == b"root"


def test_the_password_is_in_no_argument_and_no_environment(agent: FakeAgent) -> None:
    """Look at the helper while it waits for the agent."""
    listener = socket.socket(socket.AF_UNIX)
    slow = f"{agent.path}.slow"
    listener.bind(slow)
    listener.listen()
    seen: list[bytes] = []

    def look() -> None:
        connection, _ = listener.accept()
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid = int.from_bytes(credentials[:4], "little")
        for name in ("cmdline", "environ"):
            seen.append(Path(f"/proc/{pid}/{name}").read_bytes())
        while not connection.recv(4096).endswith(b"\n"):
            pass
        connection.sendall(b"wrong\n")
        connection.close()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    assert run(slow, data=b"alice\0sekrit-password\0\0")[0] == 1
    thread.join()
    listener.close()
    assert len(seen) == 2 and not any(b"sekrit" in text for text in seen)
    assert b"--socket" in seen[0], "it was the right process"


def test_it_imports_little() -> None:
    """asyncio, dataclasses, typing and the like cost more than the whole helper may."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mailseal.login.checkpassword; "
        "print(*sorted(m for m in sys.modules if not m.startswith(('_', 'encodings'))))"
    )
    lib = str(HOOKS.parent / "lib")
    done = subprocess.run(
        ["/usr/bin/python3", "-ISc", code, lib], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    heavy = {
        "socket",
        "selectors",
        "enum",
        "asyncio",
        "dataclasses",
        "typing",
        "re",
        "json",
        "logging",
        "hashlib",
        "cryptography",
    }
    assert not loaded & heavy
