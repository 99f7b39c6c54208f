# SPDX-License-Identifier: MIT
"""Many, slow and large clients: connections, CPU time and memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import socket
import stat
import termios
import threading
import time

import pytest

from tests.delivery.daemon import ALICE, Client, Daemon, cpu, eventually, memory, running, workers
from tests.lab.process import PATIENCE, states
from tests.listener import serve, unix_listener


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


def test_a_disconnected_client_costs_no_cpu_while_dovecot_is_slow() -> None:
    """epoll reports a closed connection in each iteration of the loop."""
    asked, measured = threading.Event(), threading.Event()

    def silent(client: socket.socket) -> None:
        asked.set()
        measured.wait(60)

    with Daemon({"delivery": {"workers": 1}, "dovecot": {"timeout": "60s"}}) as daemon:
        daemon.add_user(ALICE)
        with unix_listener(daemon.path("dovecot-lmtp")) as dovecot:
            os.chmod(daemon.path("dovecot-lmtp"), 0o777)
            serve(dovecot, silent)
            client = daemon.connect().hello()
            for line in ("MAIL FROM:<>", f"RCPT TO:<{ALICE}>", "DATA"):
                client.command(line)
            client.send(b"x\r\n.\r\n")
            assert asked.wait(60)
            client.close()
            eventually(lambda: "connection closed before the reply" in daemon.log_text())
            before = cpu(workers(daemon)[0])
            time.sleep(1)
            assert cpu(workers(daemon)[0]) - before < 0.1
            measured.set()


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
        base = memory(pid, "VmRSS")
        for _ in range(count):
            client.send(write)
            while _unread(client.socket):
                os.sched_yield()
        grown = memory(pid, "VmRSS") - base
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
    settings = {"message_limit": "60M", "in_flight_limit": str(limit), "in_flight_wait": "4s"}
    with running(**settings) as daemon:
        pid = workers(daemon)[0]
        base = memory(pid, "VmRSS")

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
        peak = memory(pid, "VmHWM")
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


def _fill(daemon: Daemon, client: Client) -> int:
    """Send until the daemon does not read any more; returns the number of bytes."""
    (worker,) = workers(daemon)
    client.socket.settimeout(0.5)
    sent, end = 0, time.monotonic() + PATIENCE
    while sent < 19 << 20:
        assert time.monotonic() < end, "the worker neither reads nor waits"
        try:
            sent += client.socket.send(b"0123456789abcdef\r\n" * 1000)
        except TimeoutError:
            # On a busy machine it may only wait for a processor or the disk.
            if states(worker) == {"S"} and not select.select([], [client.socket], [], 0)[1]:
                break
    client.socket.settimeout(PATIENCE)
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
        sent = [_fill(daemon, client) for client in large]
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
            _fill(daemon, client)
        late = daemon.connect().hello()
        assert late.command("MAIL FROM:<> SIZE=19000000") == FULL
        answers = [client.mail_sent(b"the end\r\n") for client in large]
        assert {answer[:9] for answer in answers if answer != FULL} == {"250 2.0.0"}


def test_a_disconnected_client_that_waits_for_memory_costs_no_cpu() -> None:
    with running(**HOARD) as daemon:
        large = [_begin(daemon) for _ in range(6)]
        for client in large:
            _fill(daemon, client)
        for client in large[3:]:
            client.close()
        eventually(lambda: daemon.log_text().count("nothing was delivered") == 3)
        before = cpu(workers(daemon)[0])
        time.sleep(1)
        assert cpu(workers(daemon)[0]) - before < 0.1
