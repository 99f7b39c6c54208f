# SPDX-License-Identifier: MIT
"""The daemon: workers that die, stop, reload, sockets from systemd, memory under load."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import stat
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.delivery.daemon import Client, Daemon
from tests.lab.process import wait_until
from tests.listener import serve, unix_listener

ALICE = "alice@example.org"


@contextlib.contextmanager
def running(**delivery: Any) -> Iterator[Daemon]:
    with Daemon({"delivery": {"workers": 1, **delivery}}) as daemon:
        daemon.enroll(ALICE)
        yield daemon


def workers(daemon: Daemon) -> list[int]:
    path = f"/proc/{daemon.server.pid}/task/{daemon.server.pid}/children"
    with open(path, encoding="ascii") as stream:
        return [int(word) for word in stream.read().split()]


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    wait_until(condition, "the condition is true", timeout=seconds)


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
        assert daemon.server.stop() == 0
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
        done = subprocess.run(hook, capture_output=True, text=True, timeout=20)
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
        done = subprocess.run(daemon.server.command, capture_output=True, text=True, timeout=20)
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
    notify.settimeout(20)
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
        assert process.wait(20) == 0
    finally:
        process.kill()
        notify.close()


def test_too_many_connections() -> None:
    with running(connection_limit=2) as daemon:
        clients = [daemon.connect().hello() for _ in range(2)]
        third = daemon.connect()
        assert third.line() == "421 4.3.2 mx.example.org too many connections"
        assert third.line() == ""
        clients[0].close()
        eventually(lambda: daemon.connect().line().startswith("220 "))


def test_ten_thousand_recipients() -> None:
    with running(recipient_limit=50) as daemon:
        client = daemon.connect().hello()
        client.command("MAIL FROM:<>")
        for block in range(100):
            client.send(
                b"".join(
                    b"RCPT TO:<alice+%d@example.org>\r\n" % (block * 100 + n) for n in range(100)
                )
            )
            answers = [client.line() for _ in range(100)]
            if block:
                assert set(answers) == {"452 4.5.3 too many recipients"}
        client.close()
        assert daemon.everything_delivered() == []


def test_the_client_that_does_not_read_is_cut_off() -> None:
    with running(idle_timeout="1s") as daemon:
        client = daemon.connect().hello()
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.socket.settimeout(0.2)
        with contextlib.suppress(OSError):
            while True:
                client.send(b"NOOP\r\n" * 10000)
        pid = workers(daemon)[0]
        eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) < 15)
        assert daemon.connect().line().startswith("220 ")


def _memory(pid: int, field: str) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as stream:
        match = re.search(rf"{field}:\s+(\d+) kB", stream.read())
    assert match is not None
    return int(match[1]) * 1024


def _cpu(pid: int) -> float:
    """CPU time of all threads, in seconds."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
        fields = stream.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_disconnected_client_costs_no_cpu_while_dovecot_is_slow() -> None:
    """epoll reports a closed connection in each iteration of the loop."""
    asked = threading.Event()

    def silent(client: socket.socket) -> None:
        asked.set()
        time.sleep(60)

    with Daemon({"delivery": {"workers": 1}, "dovecot": {"timeout": "4s"}}) as daemon:
        daemon.add_user(ALICE)
        with unix_listener(daemon.path("dovecot-lmtp")) as dovecot:
            os.chmod(daemon.path("dovecot-lmtp"), 0o777)
            serve(dovecot, silent)
            client = daemon.connect().hello()
            for line in ("MAIL FROM:<>", f"RCPT TO:<{ALICE}>", "DATA"):
                client.command(line)
            client.send(b"x\r\n.\r\n")
            assert asked.wait(10)
            client.close()
            eventually(lambda: "connection closed before the reply" in daemon.log_text())
            before = _cpu(workers(daemon)[0])
            time.sleep(1)
            assert _cpu(workers(daemon)[0]) - before < 0.1


def _unread(sock: socket.socket) -> bool:
    """Whether the other side has not read all sent bytes (unix sockets)."""
    return fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)) != bytes(4)


FRAMES = {
    "two-byte-writes": b"ab",
    "empty-lines": b"\r\n",
    "short-headers": b"A:b\r\n",
    "cr-alone": b"\r",
    "one-byte-lines": b"x\r\n" * 1000,
    "dots": b"..\r\n" * 1000,
}


@pytest.mark.parametrize("frame", FRAMES)
def test_memory_is_bounded_for_any_size_of_writes(frame: str) -> None:
    """Each write is read separately, and needs only about its size in memory."""
    write = FRAMES[frame]
    count = min(100_000, (2 << 20) // len(write))
    with running() as daemon:
        client = daemon.connect().hello()
        pid = workers(daemon)[0]
        client.mail([ALICE], b"x" * 60000 + b"\r\n")  # memory that is needed only once
        for line in ("MAIL FROM:<>", f"RCPT TO:<{ALICE}>", "DATA"):
            client.command(line)
        base = _memory(pid, "VmRSS")
        for _ in range(count):
            client.send(write)
            while _unread(client.socket):
                os.sched_yield()
        grown = _memory(pid, "VmRSS") - base
        size = count * len(write)
        assert grown < size + size // 4 + (1 << 20), f"{grown >> 10} KiB for {size >> 10}"
        client.send(b"\r\n.\r\n")
        assert client.reply().startswith("250 2.0.0")
        taken = re.sub(rb"(\A|\r\n)\.", rb"\1", write * count + b"\r\n")
        assert daemon.mails(ALICE)[1].endswith(re.sub(rb"(?<!\r)\r\n", b"\n", taken))


MARK = b"plaintext must stay in memory"


@pytest.mark.parametrize("announced", [True, False], ids=["SIZE", "no-SIZE"])
def test_memory_is_bounded_and_nothing_is_spooled(announced: bool) -> None:
    """Six mails of 50 MB at the same time, with memory for two."""
    size, limit = 50 << 20, 128 << 20
    line = MARK + b" 0123456789" * 5 + b"\r\n"
    body = line * (size // len(line))
    outcomes: list[str] = []
    spooled: set[str] = set()
    settings = {"message_limit": "60M", "in_flight_limit": str(limit), "in_flight_wait": "1s"}
    with running(**settings) as daemon:
        pid = workers(daemon)[0]
        base = _memory(pid, "VmRSS")

        def send() -> None:
            client = daemon.connect(120).hello()
            reply = client.command(f"MAIL FROM:<>{f' SIZE={len(body)}' if announced else ''}")
            if reply.startswith("250 "):
                client.command(f"RCPT TO:<{ALICE}>")
                client.command("DATA")
                client.send(body)
                client.send(b".\r\n")
                reply = client.reply()
            outcomes.append(reply)
            client.close()

        threads = [threading.Thread(target=send) for _ in range(6)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    path = f"/proc/{pid}/fd/{name}"
                    target = os.readlink(path)
                    with open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii") as info:
                        flags = int(info.read().partition("flags:")[2].split()[0], 8)
                    written = stat.S_ISREG(os.stat(path).st_mode) and flags & os.O_ACCMODE
                    if written and "/Maildir/" not in target:
                        spooled.add(target)
            time.sleep(0.01)
        peak = _memory(pid, "VmHWM")
        assert len(outcomes) == 6
        sealed = [reply for reply in outcomes if reply.startswith("250 2.0.0")]
        assert sealed
        assert all(
            r == "452 4.3.1 too much mail in progress, try again later"
            for r in outcomes
            if r not in sealed
        )
        assert len(daemon.files(ALICE)) == len(sealed)
        # The overhead of the pieces, and the memory for sealing.
        slack = 12 if announced else 24
        assert peak - base < limit + (slack << 20), f"{(peak - base) >> 20} MiB"
        assert spooled <= {daemon.log_path, daemon.path("stderr")}, spooled
        for path in daemon.everything_delivered():
            with open(path, "rb") as stream:
                assert MARK not in stream.read()
        assert daemon.mails(ALICE)[0].endswith(body.replace(b"\r\n", b"\n"))


def _begin(daemon: Daemon, mail: str = "MAIL FROM:<>") -> Client:
    """A client after DATA."""
    client = daemon.connect().hello()
    for line, code in ((mail, "250"), (f"RCPT TO:<{ALICE}>", "250"), ("DATA", "354")):
        assert client.command(line).startswith(code)
    return client


FULL = "452 4.3.1 too much mail in progress, try again later"


def _fill(client: Client) -> int:
    """Send until the daemon does not read any more; returns the number of bytes."""
    client.socket.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 19 << 20:
            sent += client.socket.send(b"0123456789abcdef\r\n" * 1000)
    client.socket.settimeout(10)
    return sent


HOARD = {"message_limit": "20M", "in_flight_limit": "48M", "in_flight_wait": "1h"}


def test_a_small_mail_does_not_wait_for_announced_mails() -> None:
    with running(**HOARD) as daemon:
        idle = [daemon.connect().hello() for _ in range(8)]
        for client in idle:
            client.send(b"MAIL FROM:<> SIZE=20000000\r\n")
        assert _begin(daemon).mail_sent(b"x\r\n").startswith("250 2.0.0")
        assert [client.line() for client in idle] == ["250 2.1.0 OK"] * 8


def test_a_small_mail_does_not_wait_if_memory_is_full() -> None:
    with running(**HOARD) as daemon:
        large = [_begin(daemon) for _ in range(6)]
        sent = [_fill(client) for client in large]
        assert sum(1 for n in sent if n >= 19 << 20) < 6, "there was memory for all"
        for lines in (1, 500, 3500):
            body = b"0123456789abcdef\r\n" * lines
            small = _begin(daemon, f"MAIL FROM:<> SIZE={len(body)}")
            assert small.mail_sent(body).startswith("250 2.0.0")
        # No new large mail is begun, because it would be refused.  Those in progress are finished.
        late = daemon.connect().hello()
        late.send(b"MAIL FROM:<> SIZE=19000000\r\n")
        answers: list[str] = []

        def finish(client: Client) -> None:
            client.socket.settimeout(60)
            answers.append(client.mail_sent(b"the end\r\n"))

        threads = [threading.Thread(target=finish, args=(client,)) for client in large]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer[:9] for answer in answers] == ["250 2.0.0"] * 6
        assert late.line() == "250 2.1.0 OK"
        assert len(daemon.files(ALICE)) == 9


def test_a_mail_that_gets_no_memory_in_time_is_deferred() -> None:
    with running(**{**HOARD, "in_flight_wait": "1s"}) as daemon:
        large = [_begin(daemon) for _ in range(3)]
        for client in large:
            _fill(client)
        late = daemon.connect().hello()
        assert late.command("MAIL FROM:<> SIZE=19000000") == FULL
        answers = [client.mail_sent(b"the end\r\n") for client in large]
        assert {answer[:9] for answer in answers if answer != FULL} == {"250 2.0.0"}


def test_a_disconnected_client_that_waits_for_memory_costs_no_cpu() -> None:
    with running(**HOARD) as daemon:
        large = [_begin(daemon) for _ in range(6)]
        for client in large:
            _fill(client)
        for client in large[3:]:
            client.close()
        eventually(lambda: daemon.log_text().count("nothing was delivered") == 3)
        before = _cpu(workers(daemon)[0])
        time.sleep(1)
        assert _cpu(workers(daemon)[0]) - before < 0.1


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
