# SPDX-License-Identifier: MIT
"""The daemon: workers that die, stop, reload, sockets from systemd, queue ids."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from typing import Any

import pytest

from tests.delivery.daemon import ALICE, Daemon, eventually, running, workers
from tests.lab.process import PATIENCE


def test_a_killed_worker_is_replaced_and_logged() -> None:
    with running(workers=2) as daemon:
        before = workers(daemon)
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: len(set(workers(daemon)) - set(before)) == 1)
        eventually(lambda: f"worker {before[0]} killed by signal 9" in daemon.log_text())
        client = daemon.connect().hello()
        assert client.mail([ALICE], b"x\r\n")[0].startswith("250 2.0.0")
        assert len(daemon.mails(ALICE)) == 1


def test_workers_end_with_their_supervisor() -> None:
    with running(workers=2) as daemon:
        before = workers(daemon)
        assert len(before) == 2
        os.kill(daemon.server.pid, signal.SIGKILL)
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in before))


def test_a_stop_finishes_the_transaction_and_begins_no_other_one() -> None:
    with running() as daemon:
        busy = daemon.connect().hello()
        idle = daemon.connect().hello()
        for line in ("MAIL FROM:<>", f"RCPT TO:<{ALICE}>", "DATA"):
            busy.command(line)
        daemon.server.signal(signal.SIGTERM)
        assert idle.line() == "421 4.3.2 mx.example.org is shutting down, try again"
        assert idle.line() == ""
        busy.send(b"text\r\n.\r\nMAIL FROM:<>\r\n")
        assert busy.line().startswith("250 2.0.0")
        assert busy.line() == "421 4.3.2 mx.example.org is shutting down, try again"
        assert busy.line() == ""
        assert daemon.server.stop(timeout=PATIENCE) == 0
        assert len(daemon.mails(ALICE)) == 1
        assert not os.path.exists(daemon.socket)


def _announces(daemon: Daemon, line: str) -> bool:
    """Whether the reply to LHLO has this text.  An old worker may still accept one client."""
    with contextlib.suppress(ConnectionError):
        client = daemon.connect()
        client.send(b"LHLO x\r\n")
        return line in [client.line() for _ in range(8)]
    return False


def test_hup_loads_a_new_configuration_and_old_transactions_finish() -> None:
    with running(message_limit="1M") as daemon:
        old = daemon.connect().hello()
        old.command("MAIL FROM:<>")
        daemon.settings["delivery"]["message_limit"] = "2M"
        daemon.settings["delivery"]["workers"] = 2
        daemon.write_config()
        daemon.server.signal(signal.SIGHUP)
        eventually(lambda: "configuration reloaded" in daemon.log_text())
        eventually(lambda: _announces(daemon, "250-SIZE 2097152"))
        assert old.command(f"RCPT TO:<{ALICE}>").startswith("250 ")
        assert old.command("DATA").startswith("354 ")
        old.send(b"x\r\n.\r\n")
        assert old.line().startswith("250 2.0.0")
        eventually(lambda: len(workers(daemon)) == 2)


@pytest.mark.parametrize(
    "change",
    [
        {"message_limit": "no size"},
        {"listen": ["/nowhere/at/all.sock"]},
        {"in_flight_limit": "1M"},
        {"user": 4242},
        {"header_rules": ["X-Spam: Yes => ./cur"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_hup_with_a_wrong_configuration_changes_nothing(change: dict[str, Any]) -> None:
    with running() as daemon:
        before = workers(daemon)
        daemon.settings["delivery"].update(change)
        daemon.write_config()
        daemon.server.signal(signal.SIGHUP)
        eventually(lambda: "configuration not reloaded, the old one stays" in daemon.log_text())
        assert workers(daemon) == before
        assert daemon.connect().hello().mail([ALICE], b"x\r\n")[0].startswith("250 2.0.0")


def test_a_wrong_configuration_does_not_start() -> None:
    with contextlib.closing(Daemon({"delivery": {"workers": 200}})) as daemon:
        hook = daemon.server.command
        done = subprocess.run(hook, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 78
    assert done.stdout == ""
    assert re.fullmatch(
        r"mailseal-lmtp: error: .*in_flight_limit.*\nmailseal-lmtp: hint: .*\n", done.stderr
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be led astray")
@pytest.mark.parametrize("what", ["socket", "log"])
def test_in_a_folder_of_another_user_root_follows_no_link(what: str) -> None:
    with contextlib.closing(Daemon({"delivery": {"workers": 1}})) as daemon:
        secret = daemon.path("shadow")
        with open(secret, "w", encoding="ascii") as stream:
            stream.write("root's own")
        os.chmod(secret, 0o600)
        os.symlink(secret, daemon.socket if what == "socket" else daemon.log_path)
        done = subprocess.run(
            daemon.server.command, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 78, done.stderr
        state = os.stat(secret)
        assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (0, 0, 0o600)
        with open(secret, encoding="ascii") as stream:
            assert stream.read() == "root's own"


def test_sockets_and_readiness_from_systemd() -> None:
    with contextlib.closing(Daemon({"delivery": {"workers": 1}})) as daemon:
        daemon.enroll(ALICE)
        _started_by_systemd(daemon)


def _started_by_systemd(daemon: Daemon) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(daemon.path("notify"))
    os.chmod(daemon.path("notify"), 0o777)
    notify.settimeout(PATIENCE)
    # LISTEN_PID must be the daemon's process id, so the process itself sets it.
    start = "import os,sys; os.dup2(int(sys.argv[1]),3); os.environ['LISTEN_PID']=str(os.getpid());"
    start += "os.execv(sys.argv[2],sys.argv[2:])"
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", start, str(listener.fileno()), *daemon.server.command],
        pass_fds=[listener.fileno()],
        env={"LISTEN_FDS": "1", "NOTIFY_SOCKET": daemon.path("notify"), "PATH": "/usr/bin:/bin"},
    )
    try:
        assert notify.recv(1000) == b"READY=1"
        assert not os.path.exists(daemon.socket)
        daemon.tcp = listener.getsockname()
        listener.close()
        assert daemon.connect_tcp().hello().mail([ALICE], b"x\r\n")[0].startswith("250 ")
        process.send_signal(signal.SIGHUP)
        assert notify.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert notify.recv(1000) == b"READY=1"
        process.send_signal(signal.SIGTERM)
        assert notify.recv(1000) == b"STOPPING=1"
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        notify.close()


def test_the_queue_id_from_xforward_is_logged_for_its_transaction_only() -> None:
    received = b"Received: by mx (Postfix)\r\n\tid BBBBB; x\r\n"
    with running(message_limit="64K") as daemon:
        client = daemon.connect().hello()
        for command in ("XFORWARD IDENT=AA+41+41+2D1", "MAIL FROM:<>"):
            assert client.command(command).startswith("250 ")
        assert client.command("RCPT TO:<nobody@example.org>").startswith("550 ")
        assert client.command("RSET").startswith("250 ")
        for ident in ("IDENT=CCCCC", "IDENT=[UNAVAILABLE]", "IDENT=DDDDD", ""):
            if ident:
                assert client.command(f"XFORWARD {ident}") == "250 2.0.0 OK"
            body = received + b"x" * (70000 if ident == "IDENT=DDDDD" else 1) + b"\r\n"
            client.mail([ALICE], body)
        ids = re.findall(r"\]: (\S+): to=<.*(?:dsn=)(\S+),", daemon.log_text())
        assert ids == [
            ("AAAA-1", "5.1.1"),
            ("CCCCC", "2.0.0"),
            ("BBBBB", "2.0.0"),
            ("DDDDD", "5.3.4"),
            ("BBBBB", "2.0.0"),
        ]
