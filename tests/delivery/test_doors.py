# SPDX-License-Identifier: MIT
"""Who may use which socket and send a queue id; local users cannot delay Postfix."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.delivery.daemon import Daemon
from tests.lab.place import readable_code

ALICE = "alice@example.org"
NOBODY = 65534
CONNECT = "import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@contextlib.contextmanager
def two_doors(**delivery: Any) -> Iterator[Daemon]:
    daemon = Daemon({"delivery": {"workers": 1, **delivery}})
    daemon.settings["delivery"]["deliver_socket"] = daemon.deliver_socket
    daemon.write_config()
    with daemon:
        daemon.enroll(ALICE)
        yield daemon


def as_nobody(*command: str, mail: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        input=mail,
        capture_output=True,
        timeout=60,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )


def deliver_as_nobody(daemon: Daemon, mail: bytes, *options: str) -> tuple[int, bytes]:
    hook = os.path.join(readable_code(), "hooks", "mailseal-deliver")
    done = as_nobody(hook, "-s", daemon.deliver_socket, *options, ALICE, mail=mail)
    return done.returncode, done.stdout


@needs_root
def test_the_sockets_of_postfix_are_not_for_local_users() -> None:
    with two_doors() as daemon:
        state = os.stat(daemon.socket)
        assert (stat.S_IMODE(state.st_mode), state.st_gid) == (0o660, daemon.uid)
        done = as_nobody("/usr/bin/python3", "-c", CONNECT, daemon.socket)
        assert b"PermissionError" in done.stderr
        assert stat.S_IMODE(os.stat(daemon.deliver_socket).st_mode) == 0o666
        assert as_nobody("/usr/bin/python3", "-c", CONNECT, daemon.deliver_socket).returncode == 0


@needs_root
@pytest.mark.parametrize("named", [(), ("-q", "4FORGED")], ids=["Received", "-q"])
def test_a_local_user_cannot_send_a_queue_id_and_the_uid_is_logged(named: tuple[str, ...]) -> None:
    mail = b"Received: by mx (Postfix)\n\tid 4FORGED; x\nSubject: x\n\ntext\n"
    with two_doors() as daemon:
        assert deliver_as_nobody(daemon, mail, *named) == (0, b"")
        (line,) = re.findall(r".*to=<.*", daemon.log_text())
        assert f"]: NOQUEUE: to=<{ALICE}>, uid={NOBODY}, action=sealed" in line
        assert "4FORGED" not in daemon.log_text()
        (stored,) = daemon.mails(ALICE)
        assert b"Received: from localhost (uid 65534)\n\tby mx.example.org with LMTP\n" in stored


def test_over_tcp_nobody_can_send_a_queue_id() -> None:
    with two_doors() as daemon:
        client = daemon.connect_tcp()
        client.send(b"LHLO x\r\n")
        while (line := client.line())[3:4] != " " or line.startswith("220"):
            assert "XFORWARD" not in line
        assert client.command("XFORWARD IDENT=4Abc") == "550 5.7.0 insufficient authorization"


def test_postfix_and_delivery_user_can_send_queue_ids_on_both_sockets() -> None:
    with two_doors() as daemon:
        for path in (daemon.socket, daemon.deliver_socket):
            client = daemon.connect(path=path).hello()
            assert client.command("XFORWARD IDENT=4Abc") == "250 2.0.0 OK"
            assert client.mail([ALICE], b"x\r\n")[0].startswith("250 ")
        assert daemon.log_text().count(f"]: 4Abc: to=<{ALICE}>, action=sealed") == 2


def test_local_users_do_not_use_connections_or_memory_of_postfix() -> None:
    room = {"message_limit": "10M", "in_flight_limit": "12M", "in_flight_wait": "1h"}
    with two_doors(connection_limit=3, **room) as daemon:
        crowd = [daemon.connect(path=daemon.deliver_socket) for _ in range(9)]
        greeted = [client for client in crowd if client.line().startswith("220 ")]
        assert len(greeted) == 3
        for client in greeted:
            assert client.command("LHLO x").startswith("250 ")
            for line in ("MAIL FROM:<>", f"RCPT TO:<{ALICE}>", "DATA"):
                client.command(line)
            client.socket.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                client.send(b"0123456789abcdef\r\n" * 500_000)
        postfix = daemon.connect().hello()
        large = b"0123456789abcdef\r\n" * 550_000
        assert postfix.mail([ALICE], large)[0].startswith("250 2.0.0")


HOLD = """
import socket, sys
held = []
for _ in range(20):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
print(sum(s.recv(99).startswith(b"220 ") for s in held), flush=True)
sys.stdin.read()
"""


@needs_root
def test_one_local_user_leaves_connections_for_the_others() -> None:
    with two_doors(connection_limit=8) as daemon:
        crowd = subprocess.Popen(
            ["/usr/bin/python3", "-c", HOLD, daemon.deliver_socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=60605,
            group=60605,
            extra_groups=[],
        )
        try:
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == b"2\n"
            assert deliver_as_nobody(daemon, b"Subject: x\n\ntext\n") == (0, b"")
        finally:
            crowd.communicate()
        for _ in range(10):  # closed connections are not counted
            assert deliver_as_nobody(daemon, b"Subject: x\n\ntext\n") == (0, b"")


@pytest.mark.parametrize(
    ("option", "error"),
    [
        (
            "socket_group",
            "option delivery.socket_group: there is no group no-such-name\n"
            "mailseal-lmtp: hint: set it to the group of Postfix's mail_owner: "
            "postconf -h mail_owner\n",
        ),
        ("postfix_user", "option delivery.postfix_user: there is no user no-such-name\n"),
    ],
)
@needs_root
def test_a_group_or_user_that_is_missing_is_a_clear_error(option: str, error: str) -> None:
    with contextlib.closing(Daemon({"delivery": {"workers": 1}})) as daemon:
        daemon.settings["delivery"][option] = "no-such-name"
        daemon.write_config()
        done = subprocess.run(daemon.server.command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (78, f"mailseal-lmtp: error: {error}")
