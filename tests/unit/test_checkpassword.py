# SPDX-License-Identifier: MIT
"""The checkpassword program, run as by Dovecot: descriptors 3 and 4, exit statuses, start time."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.public import PublicStore
from mailseal.login import local_keys, protocol
from tests.unit.agent_process import HOOKS
from tests.unit.checkpassword_process import HELPER, FakeAgent, run

KEY = PrivateKey.generate().public
APP_PASSWORD = b"0123-4567-89ab-cdef-ghjk-mnpq-rstv-wxyz"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    """With public keys: alice is enrolled, bob is not."""
    public = PublicStore(str(tmp_path / "public"))
    public.prepare()
    public.publish("alice", KEY)
    fake = FakeAgent(tmp_path / "sock")
    yield fake
    fake.close()


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


SEALED = (
    f"userdb_mail_crypt_global_public_key={KEY.dovecot_string()}\t"
    "userdb_mail_crypt_save_version=2\tuserdb_mail_plugins+= mail_crypt\t"
    "userdb_mbox_write_locks=mail_crypt_cannot_seal_mbox\t"
    "userdb_mail_attachment_fs=posix:prefix=/dev/null/mail_crypt_cannot_seal_attachments\t"
).encode()
PLAIN = b"userdb_mail_crypt_save_version=0\t"
NOT_YET = b"userdb_mail_crypt_save_version=2\t"
GIVEN = f"--key={KEY.dovecot_string()}"
OTHER = f"--key={PrivateKey.generate().public.dovecot_string()}"


@pytest.mark.parametrize(
    ("name", "options", "environment", "status", "expected"),
    [
        # deliveries and other lookups
        ("alice", ["--behind-passdb", "--key="], {}, 2, SEALED),
        ("alice", [], {}, 2, SEALED),
        ("bob", ["--behind-passdb", "--key="], {}, 2, PLAIN),
        ("bob", [], {}, 3, b""),
        # logins
        ("alice", ["--behind-passdb", GIVEN], {"AUTH_MECH": "PLAIN"}, 2, SEALED),
        ("alice", ["--behind-passdb", "--key="], {"AUTH_MECH": "PLAIN"}, 111, b""),
        ("alice", ["--behind-passdb", OTHER], {"AUTH_MECH": "PLAIN"}, 111, b""),
        ("bob", ["--behind-passdb", "--key="], {"AUTH_MECH": "PLAIN"}, 2, PLAIN),
        ("bob", ["--behind-passdb", GIVEN], {"AUTH_MECH": "PLAIN"}, 111, b""),
        # master users
        ("alice", [], {"AUTH_MECH": "PLAIN", "MASTER_USER": "m"}, 2, SEALED),
        ("alice", [], {"AUTH_MECH": "PLAIN", "MASTER_USER": "m", "SERVICE": "pop3"}, 111, b""),
        # names
        ("Alice", ["--behind-passdb", "--key="], {}, 111, b""),
        ("Bob", ["--behind-passdb", "--key="], {}, 2, PLAIN),
        # a passdb that asks without a password
        ("bob", ["--behind-passdb"], {"CREDENTIALS_LOOKUP": "1"}, 111, b""),
    ],
)
def test_as_a_userdb_it_does_not_ask_the_agent(
    agent: FakeAgent,
    name: str,
    options: list[str],
    environment: dict[str, str],
    status: int,
    expected: bytes,
) -> None:
    got = run(agent.path, *options, data=name.encode() + b"\0\0\0",
              env={"AUTHORIZED": "1", **environment})  # fmt: skip
    assert got[:2] == (status, expected)
    assert agent.received == []


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (b"ok user=61 x=31\n", 0, b"userdb_x=1\t"),
        (b"unknown\n", 0, NOT_YET),
        (b"wrong\n", 1, b""),
        (b"temporary reason=62\n", 111, b""),
    ],
)
def test_behind_another_passdb(
    agent: FakeAgent, answer: bytes, status: int, expected: bytes
) -> None:
    """The other passdb's user name is kept; without keys the login is not permitted yet."""
    agent.answer = answer
    code, reply, _ = run(agent.path, "--behind-passdb", env={"MASTER_USER": "root"})
    assert (code, reply) == (status, expected)
    assert agent.received[0][1]["behind"] == b"1"
    assert agent.received[0][1]["master"] == b"root"


@pytest.mark.parametrize("answer", [b"temporary reason=62\n", b"denied\n", b"unknown\n", b""])
def test_users_who_are_not_enrolled_do_not_depend_on_the_agent(
    agent: FakeAgent, answer: bytes
) -> None:
    agent.answer = answer
    got = run(agent.path, "--behind-passdb", data=b"bob\0pw\0\0")
    assert (got[:2], agent.received) == ((0, NOT_YET), [])
    mark = Path(agent.path).with_name("public") / local_keys.ENROLL_MARK
    mark.write_bytes(b"")
    assert run(agent.path, "--behind-passdb", data=b"bob\0pw\0\0")[:2] == (0, NOT_YET)
    assert agent.received[0][0] == "unlock"


@pytest.mark.parametrize(
    ("name", "password", "answer", "status", "asked"),
    [
        (b"alice", APP_PASSWORD, b"ok user=61 x=31\n", 0, True),
        (b"alice", APP_PASSWORD.upper(), b"ok user=61 x=31\n", 0, True),
        (b"alice", APP_PASSWORD, b"wrong\n", 1, True),
        (b"alice", APP_PASSWORD, b"unknown\n", 1, True),
        (b"alice", APP_PASSWORD, b"temporary reason=62\n", 111, True),
        (b"alice", APP_PASSWORD, b"", 111, True),
        (b"alice", APP_PASSWORD[:-1], b"ok user=61 x=31\n", 1, False),
        (b"alice", APP_PASSWORD[:-1] + b"u", b"ok user=61 x=31\n", 1, False),
        (b"alice", b"pw", b"ok user=61 x=31\n", 1, False),
        (b"bob", APP_PASSWORD, b"ok user=61 x=31\n", 1, False),
    ],
)
def test_app_passwords(
    agent: FakeAgent, name: bytes, password: bytes, answer: bytes, status: int, asked: bool
) -> None:
    agent.answer = answer
    data = name + b"\0" + password + b"\0\0"
    assert run(agent.path, "--app-password", data=data)[0] == status
    assert [verb for verb, _ in agent.received] == ["unlock"] * asked
    assert all(fields["app"] == b"1" for _, fields in agent.received)


def test_the_password_is_in_no_argument_and_no_environment(agent: FakeAgent) -> None:
    """Check the program while it waits for the agent."""
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
    assert b"--socket" in seen[0], "this must be the right process"


def test_it_imports_little() -> None:
    """asyncio, dataclasses, typing and others would take longer than the whole program."""
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
