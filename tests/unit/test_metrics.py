# SPDX-License-Identifier: MIT
"""Counters in files, and mailseal-metrics, which serves them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailseal import config as configuration
from mailseal.config import Config
from mailseal.delivery.daemon.counting import Counting, Outcomes
from mailseal.delivery.lmtp.syntax import Reply
from mailseal.errors import ConfigError
from mailseal.metrics import counters, table
from mailseal.metrics.counters import CounterFile, read
from mailseal.metrics.server import CONNECTIONS, require_local
from mailseal.metrics.table import AGENT, COUNTER, DELIVERY, LAYOUTS, Layout
from tests.lab.metrics import Metrics
from tests.lab.place import free_ports, readable_code


def _configured(folder: Path, listen: str = "127.0.0.1:1") -> Config:
    text = f"metrics: {{listen: '{listen}', folder: {folder}/metrics, user: {os.getuid()}}}"
    return configuration.parse(text)


def _created(folder: Path, layout: Layout = DELIVERY) -> CounterFile:
    made = CounterFile.create(_configured(folder), layout)
    assert made is not None
    return made


def _value(folder: Path, layout: Layout, name: str, *values: str) -> float:
    found = read(str(folder / "metrics"), layout)
    assert found is not None
    return found.cells[layout.cells[name, values]]


def test_nothing_is_counted_by_default(tmp_path: Path) -> None:
    assert CounterFile.create(configuration.parse(""), DELIVERY) is None
    counting = Counting(configuration.parse(""))
    assert counting.outcomes(counting.reserve()) is None


def test_parts_are_added_up(tmp_path: Path) -> None:
    made = _created(tmp_path)
    for number in (1, 2):
        made.grow(number)
        made.part(number).add("mailseal_deliveries", "sealed", "2.0.0", amount=number)
    assert _value(tmp_path, DELIVERY, "mailseal_deliveries", "sealed", "2.0.0") == 3


def test_a_worker_continues_the_part_of_one_that_has_ended(tmp_path: Path) -> None:
    counting = Counting(_configured(tmp_path))
    assert [counting.reserve() for _ in range(2)] == [1, 1]  # not taken yet
    for pid, number in ((100, 1), (101, 2), (102, 3)):
        assert counting.reserve() == number
        counting.started(pid, number)
        outcomes = counting.outcomes(number)
        assert outcomes is not None
        outcomes.outcome("sealed", Reply(250, "2.0.0", ""), 0.02)
    counting.ended(101, died=True)
    assert counting.reserve() == 2
    again = counting.outcomes(2)
    assert again is not None
    again.outcome("sealed", Reply(250, "2.0.0", ""), 0.02)
    assert _value(tmp_path, DELIVERY, "mailseal_deliveries", "sealed", "2.0.0") == 4
    assert _value(tmp_path, DELIVERY, "mailseal_lmtp_workers") == 2
    assert _value(tmp_path, DELIVERY, "mailseal_lmtp_worker_deaths") == 1


def test_every_reply_is_counted_once(tmp_path: Path) -> None:
    """Also codes that are not in the table, or do not belong to the reply."""
    outcomes = Outcomes(_created(tmp_path).part(0))
    codes = [(c, e) for c in (250, 451, 550) for e in ("2.0.0", "4.9.9", "5.1.1", "", "é")]
    for code, enhanced in codes:
        outcomes.outcome("relayed", Reply(code, enhanced, ""), 1.0)
        outcomes.outcome("none", Reply(550, enhanced, ""))
    outcomes.outcome("no such action", Reply(250, "2.0.0", ""), -1.0)
    found = read(str(tmp_path / "metrics"), DELIVERY)
    assert found is not None
    total = sum(
        found.cells[at] for metric, _, at in DELIVERY if metric.name == "mailseal_deliveries"
    )
    assert total == 2 * len(codes)


def test_all_replies_of_mailseal_have_their_own_label() -> None:
    from mailseal import errors

    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    codes = {c.peer_reply[1] for c in classes if issubclass(c, errors.MailsealError)}
    assert codes <= set(table.REFUSED)


def test_a_daemon_that_has_ended_is_known_without_taking_a_lock(tmp_path: Path) -> None:
    folder = str(tmp_path / "metrics")
    assert read(folder, AGENT) is None
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from mailseal import config; from mailseal.metrics import counters, table\n"
        "f = counters.CounterFile.create(config.parse(sys.argv[2]), table.AGENT)\n"
        "f.part(0).add('mailseal_unlocks', 'ok'); print('ready', flush=True); sys.stdin.read()\n"
    )
    text = f"metrics: {{listen: '127.0.0.1:1', folder: {folder}, user: {os.getuid()}}}"
    command = [sys.executable, "-c", code, os.path.join(readable_code(), "lib"), text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        assert (found := read(folder, AGENT)) is not None
        assert found.running
        daemon.kill()
    assert (found := read(folder, AGENT)) is not None
    assert not found.running
    assert sum(found.cells) == 1


def test_a_reader_cannot_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    """It may lock the file in each way that a descriptor for reading permits."""
    _created(tmp_path)
    with open(tmp_path / "metrics" / "lmtp", "rb") as hostile:
        fcntl.flock(hostile, fcntl.LOCK_EX)
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(hostile, fcntl.F_OFD_SETLK, lock)
        again = _created(tmp_path)
        again.part(0).add("mailseal_lmtp_worker_deaths")
    assert _value(tmp_path, DELIVERY, "mailseal_lmtp_worker_deaths") == 1


@pytest.mark.parametrize("damage", ["empty", "short", "other version", "folder", "link"])
def test_a_file_that_cannot_be_used_gives_no_figures(tmp_path: Path, damage: str) -> None:
    _created(tmp_path, AGENT).part(0).add("mailseal_unlocks", "ok")
    path = tmp_path / "metrics" / "agent"
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "link":
        path.symlink_to("/etc/passwd")
    else:
        other = data.replace(AGENT.digest, bytes(32))
        path.write_bytes({"empty": b"", "short": data[:4096]}.get(damage, other))
    found = read(str(tmp_path / "metrics"), AGENT)
    assert found is None or found.cells == ()


def test_label_values_are_fixed_and_tell_nothing_about_users() -> None:
    for layout in LAYOUTS:
        for metric in layout.metrics:
            assert len(metric.series) < 100
            assert set(metric.labels) <= {"action", "reply", "result", "pool", "slots", "pairs"} | {
                "state"
            }
            for values in metric.series:
                assert len(values) == len(metric.labels)
                assert not any("@" in value for value in values)


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[Metrics]:
    folder.chmod(0o755)
    (port,) = free_ports(1)
    config = folder / "mailseal.yaml"
    config.write_text(
        f"log: {{to: stderr}}\nmetrics: {{listen: '127.0.0.1:{port}', folder: {folder}/metrics, "
        f"user: {os.getuid()}}}\n"
    )
    hook = os.path.join(readable_code(), "hooks", "mailseal-metrics")
    with Metrics(hook, str(config), str(folder / "log"), port) as metrics:
        yield metrics


def test_all_series_of_the_table_are_served_and_no_others(tmp_path: Path) -> None:
    keep: list[Any] = []
    for layout in LAYOUTS:
        keep.append(made := _created(tmp_path, layout))
        part = made.part(0)
        for metric, values, _ in layout:
            if metric.kind == COUNTER:
                part.add(metric.name, *values)
    with _serving(tmp_path) as metrics:
        found = metrics.scrape()
    assert {name for name, _ in found.series} == set(table.names())
    assert found.value("mailseal_up", daemon="sealer") == 1
    assert found.value("mailseal_unlocks_total", result="stale") == 1


def test_without_daemons_it_says_that_they_are_down(tmp_path: Path) -> None:
    with _serving(tmp_path) as metrics:
        found = metrics.scrape()
    assert found.value("mailseal_up", daemon="agent") == 0
    assert found.value("mailseal_up", daemon="lmtp") == 0
    assert found.value("mailseal_up", daemon="sealer") is None


def test_a_histogram_counts_all_values(tmp_path: Path) -> None:
    part = (made := _created(tmp_path, AGENT)).part(0)
    for value in (0.0, 0.005, 0.0051, 1e9):
        part.observe("mailseal_unlock_delay_seconds", "ok", value=value)
    with _serving(tmp_path) as metrics:
        found = metrics.scrape()
    name = "mailseal_unlock_delay_seconds"
    assert found.value(f"{name}_bucket", result="ok", le="0.005") == 2
    assert found.value(f"{name}_bucket", result="ok", le="300.0") == 3
    assert found.value(f"{name}_bucket", result="ok", le="+Inf") == 4
    assert found.value(f"{name}_count", result="ok") == 4
    assert made is not None


def test_only_get_metrics_is_answered(tmp_path: Path) -> None:
    with _serving(tmp_path) as metrics:
        assert metrics.ask(path="/")[0] == 404
        assert metrics.ask("POST")[0] == 405
        assert metrics.ask(path="/metrics?name[]=nothing") == metrics.ask()


def test_slow_clients_are_cut_off_and_others_served(tmp_path: Path) -> None:
    with _serving(tmp_path) as metrics, contextlib.ExitStack() as held:
        slow = []
        for _ in range(CONNECTIONS - 1):
            one = held.enter_context(socket.create_connection(("127.0.0.1", metrics.port)))
            one.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            slow.append(one)
        assert metrics.ask()[0] == 200
        # Too many: they wait, until the slow ones have been closed.
        for _ in range(20):
            held.enter_context(socket.create_connection(("127.0.0.1", metrics.port)))
        assert metrics.ask()[0] == 200
        for one in slow:
            one.settimeout(60)
            with contextlib.suppress(ConnectionError):
                while one.recv(4096):
                    pass


@pytest.mark.parametrize("listen", ["192.0.2.1:9000", "0.0.0.0:9000", "[::]:9000", "host:9000"])
def test_it_listens_on_this_host_only(listen: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        require_local(listen)


def test_a_unix_socket_and_loopback_addresses_are_allowed() -> None:
    for listen in ("/run/x.sock", "127.0.0.1:9000", "[::1]:9000"):
        require_local(listen)


def test_a_full_part_still_counts(tmp_path: Path) -> None:
    """The layouts fit into their parts, which begin at whole pages."""
    for layout in LAYOUTS:
        assert layout.size * 8 <= counters.part_size(layout)
        assert counters.part_size(layout) % os.sysconf("SC_PAGE_SIZE") == 0
