# SPDX-License-Identifier: MIT
"""The agent with many logins at the same time: its queue, priority and memory."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from tests.unit.agent_process import USER, AgentProcess, running


def test_too_many_waiting_is_temporary_not_wrong(folder: Path) -> None:
    options = "keys: {kdf: high-memory}\n"
    agent = AgentProcess(folder, options)
    text = agent.config.read_text().replace("agent:\n", "agent:\n  parallel: 1\n  queue: 1\n")
    agent.config.write_text(text)
    agent.start()
    try:
        statuses: list[str] = []

        def login(number: int) -> None:
            answer = agent.ask("unlock", user=b"u%d" % number, password=b"pw")
            statuses.append(answer.status)

        threads = [threading.Thread(target=login, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == ["temporary"] * 4 + ["wrong"] * 2
    finally:
        agent.stop()


def test_status_and_changes_do_not_wait_for_wrong_passwords(folder: Path) -> None:
    """After 16 wrong passwords, with one Argon2id at a time for them."""
    agent = AgentProcess(folder, "keys: {kdf: high-memory}\n")
    text = agent.config.read_text().replace("agent:\n", "agent:\n  parallel: 1\n  queue: 15\n")
    agent.config.write_text(text)
    agent.start()
    try:
        assert agent.ask("enroll", user=USER, password=b"pw").status == "ok"
        statuses: list[str] = []

        def guess(number: int) -> None:
            statuses.append(agent.ask("unlock", user=b"u%d" % number, password=b"x").status)

        threads = [threading.Thread(target=guess, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        while "temporary" not in statuses:  # now the queue is full
            time.sleep(0.01)
        changed = agent.ask("passwd", user=USER, old=b"pw", new=b"new", keep_old=b"1")
        assert changed.status == "ok"
        assert agent.ask("status").status == "ok"
        assert agent.ask("undo", user=USER, change=changed.fields["change"]).status == "ok"
        assert agent.ask("lock").status == "ok"
        assert statuses.count("wrong") < 10
        for thread in threads:
            thread.join()
        assert statuses.count("wrong") >= 16
    finally:
        agent.stop()


def ticks(pid: int, task: str) -> int:
    """CPU time of a thread, in hundredths of a second."""
    with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as stream:
        fields = stream.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_thread_of_argon2id_has_lower_priority(folder: Path) -> None:
    with running(folder, "keys: {kdf: high-memory}\n") as agent:
        slow = threading.Thread(target=lambda: agent.ask("unlock", user=b"nobody", password=b"x"))
        slow.start()
        used: dict[str, tuple[int, int]] = {}  # CPU time and priority
        while slow.is_alive():
            for task in os.listdir(f"/proc/{agent.pid}/task"):
                with contextlib.suppress(OSError):
                    if task != str(agent.pid):
                        priority = os.getpriority(os.PRIO_PROCESS, int(task))
                        used[task] = (ticks(agent.pid, task), priority)
            time.sleep(0.01)
        slow.join()
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        # Other threads, which tidy up after the start, use less.
        most, priority = max(used.values())
        assert most >= 2 and priority == min(mine + 10, 19)
        assert os.getpriority(os.PRIO_PROCESS, agent.pid) == mine


def test_memory_stays_bounded(folder: Path) -> None:
    """20 different wrong passwords at the same time: two Argon2id of 64 MiB run, not 20."""
    with running(folder, "keys: {kdf: standard}\n") as agent:
        threads = [
            threading.Thread(target=lambda n=n: agent.ask("unlock", user=b"u%d" % n, password=b"x"))
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        status = Path(f"/proc/{agent.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)
        assert peak < (2 * 64 + 60) * 1024
