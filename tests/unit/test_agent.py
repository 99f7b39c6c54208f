# SPDX-License-Identifier: MIT
"""The agent as a process: access, hardening, start and stop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.login import protocol
from tests.unit.agent_process import CHEAP, HOOKS, AgentProcess, running

USER = b"alice@example.org"
needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="only root can become another user and try to get in"
)
AGENT_UID = 60602


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent")
    for place in (path, *path.parents[:2]):
        place.chmod(0o755)
    return path


@pytest.fixture
def agent(folder: Path) -> Iterator[AgentProcess]:
    with running(folder) as process:
        yield process


def as_uid(uid: int, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as another user."""
    return subprocess.run(
        ["/usr/bin/python3", "-c", code, *arguments],  # other users may not be able to read .venv
        user=uid,
        group=uid,
        extra_groups=[],
        capture_output=True,
        text=True,
        cwd="/",
    )


TALK = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode() + b"\\n")
print(s.makefile().readline(), end="")
"""


def unlock_line(user: bytes = USER, password: bytes = b"pw") -> str:
    return protocol.encode("unlock", {"user": user, "password": password}).decode().strip()


@needs_root
def test_another_uid_is_refused(agent: AgentProcess) -> None:
    agent.ask("enroll", user=USER, password=b"pw")
    said = as_uid(60603, TALK, str(agent.socket), unlock_line())
    assert "PermissionError" in said.stderr
    agent.socket.chmod(0o666)  # the uid is checked with any mode
    said = as_uid(60603, TALK, str(agent.socket), unlock_line())
    assert said.stdout.strip() == "denied"
    assert "refused uid=60603" in agent.log_text()


@needs_root
def test_a_login_uid_unlocks_but_does_not_administer(agent: AgentProcess) -> None:
    agent.ask("enroll", user=USER, password=b"pw")
    assert as_uid(60604, TALK, str(agent.socket), unlock_line()).stdout.startswith("ok user=")
    for_user = ("backup", "unenroll", "check", "sessions")
    for verb in ("status", "lock", *(f"{verb} user={USER.hex()}" for verb in for_user)):
        assert as_uid(60604, TALK, str(agent.socket), verb).stdout.strip() == "denied"
    assert agent.ask("unlock", user=USER, password=b"pw").status == "ok"


PEEK = """
import ctypes, os, sys
pid = int(sys.argv[1])
try:
    os.open(f"/proc/{pid}/mem", os.O_RDONLY); print("mem open")
except OSError as exc:
    print("mem", type(exc).__name__)
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH = 16
print("ptrace", libc.ptrace(PTRACE_ATTACH, pid, 0, 0))
"""


@needs_root
def test_its_own_user_cannot_read_its_memory(folder: Path) -> None:
    with running(folder, user=AGENT_UID) as agent:
        assert os.stat(f"/proc/{agent.pid}/status").st_uid == 0, "not dumpable: /proc is root's"
        assert as_uid(AGENT_UID, PEEK, str(agent.pid)).stdout == "mem PermissionError\nptrace -1\n"
    # the same with an unprotected process of that user
    open_one = subprocess.Popen(["sleep", "30"], user=AGENT_UID, group=AGENT_UID)
    try:
        assert "mem open" in as_uid(AGENT_UID, PEEK, str(open_one.pid)).stdout
    finally:
        open_one.kill()
        open_one.wait()


@needs_root
def test_it_drops_root_and_owns_its_files(folder: Path) -> None:
    with running(folder, user=AGENT_UID) as agent:
        agent.ask("enroll", user=USER, password=b"pw")
        status = Path(f"/proc/{agent.pid}/status").read_text()
        for line in ("Uid", "Gid"):
            assert f"{line}:\t" + "\t".join([str(AGENT_UID)] * 4) in status
        assert "Groups:\t \n" in status or f"Groups:\t{AGENT_UID} \n" in status
        assert "NoNewPrivs:\t1" in status
        keyring = folder / "state" / "keys" / "alice@example.org.json"
        assert (os.stat(keyring).st_uid, os.stat(keyring).st_mode & 0o777) == (AGENT_UID, 0o600)
        assert os.stat(keyring.parent).st_mode & 0o777 == 0o700
        limits = Path(f"/proc/{agent.pid}/limits").read_text()
        assert any(
            line.split()[4:6] == ["0", "0"] for line in limits.splitlines() if "core file" in line
        )


def test_it_says_what_hardening_it_got(agent: AgentProcess) -> None:
    line = next(line for line in agent.log_text().splitlines() if "hardening:" in line)
    assert "core_dumps=off" in line and "dumpable=no" in line and "no_new_privileges=yes" in line
    assert "memory_locked=yes" in line or "memory_locked=no (" in line


def test_socket_mode(folder: Path) -> None:
    with running(folder) as agent:
        assert os.stat(agent.socket).st_mode & 0o777 == 0o660
        assert agent.stop() == 0
        text = agent.config.read_text().replace("agent:\n", 'agent:\n  socket_mode: "0600"\n')
        agent.config.write_text(text)
        agent.start()
        assert os.stat(agent.socket).st_mode & 0o777 == 0o600


def test_sigterm_ends_with_zero_and_removes_the_socket(agent: AgentProcess) -> None:
    agent.ask("enroll", user=USER, password=b"pw")
    agent.ask("unlock", user=USER, password=b"pw")
    assert agent.stop() == 0
    assert not agent.socket.exists()
    assert "stopped, sessions ended=1" in agent.log_text()


def test_a_crash_loses_sessions_only(agent: AgentProcess) -> None:
    agent.ask("enroll", user=USER, password=b"pw")
    agent.ask("unlock", user=USER, password=b"pw")
    assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
    assert agent.socket.exists(), "a stale socket is left; the next agent replaces it"
    agent.start()
    assert agent.ask("unlock", user=USER, password=b"pw").status == "ok"
    assert agent.log_text().count("session=new") == 2


def test_sighup_opens_the_log_anew_and_ends_no_session(folder: Path) -> None:
    file = folder / "mailseal.log"
    with running(folder, f"{CHEAP}log: {{to: {file}}}\n") as agent:
        agent.ask("enroll", user=USER, password=b"pw")
        agent.ask("unlock", user=USER, password=b"pw")
        file.rename(folder / "mailseal.log.1")
        os.kill(agent.pid, signal.SIGHUP)
        agent.ask("lookup", user=USER)  # so the signal was handled before
        assert agent.ask("status").text("sessions") == "1"
        agent.ask("unlock", user=USER, password=b"pw")
        assert "session=cached" in file.read_text()


def test_a_second_agent_refuses_to_start(agent: AgentProcess) -> None:
    second = subprocess.run(
        [HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True, timeout=20
    )
    assert second.returncode == 75
    assert b"another mailseal-agent listens" in second.stderr
    assert agent.ask("status").status == "ok", "the first one still works"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("keys: {escrow: /nonexistent}\n", "keys.escrow"),
        ("keys: {escrow: /dev/null}\n", "keys.escrow"),
        ("login: {enroll: sometimes}\n", "login.enroll"),
    ],
)
def test_a_wrong_option_is_named(folder: Path, options: str, named: str) -> None:
    agent = AgentProcess(folder, options)
    done = subprocess.run([HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True)
    assert done.returncode == 78
    assert named in done.stderr.decode() and b"Traceback" not in done.stderr


def test_an_unknown_user_name_in_a_list_is_named(folder: Path) -> None:
    agent = AgentProcess(folder)
    text = agent.config.read_text().replace("60604", "no-such-user-here")
    agent.config.write_text(text)
    done = subprocess.run([HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True)
    assert done.returncode == 78
    assert done.stderr == (
        b"mailseal-agent: error: option agent.login_users: there is no user no-such-user-here\n"
    )


def raw(agent: AgentProcess, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(agent.socket))
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except OSError:
            pass
    return b"".join(parts)


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"\xff\xfe\n",
        b"nonsense\n",
        b"unlock user\n",
        b"unlock user=zz\n",
        b"unlock user=00 user=00\n",
        b"__init__\n",
        b"unlock " + b"a" * protocol.MAX_REQUEST + b"\n",
        b"unlock user=" + b"61" * 10_000_000 + b"\n",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_invalid_data_gets_an_error(agent: AgentProcess, data: bytes) -> None:
    answer = raw(agent, data)
    assert b"Traceback" not in answer
    assert answer == b"" or answer.startswith((b"error ", b"wrong"))
    assert agent.ask("status").status == "ok"


def test_half_a_line_and_a_disconnect(agent: AgentProcess) -> None:
    assert raw(agent, b"unlock user=6") == b""
    assert agent.ask("status").status == "ok"


@pytest.mark.parametrize(
    "password", [b"", b"\0", b"p\0w", b"x" * 20_000, b"\xff\xfe", b"pw "], ids=repr
)
def test_wrong_passwords(agent: AgentProcess, password: bytes) -> None:
    agent.ask("enroll", user=USER, password=b"pw")
    assert agent.ask("unlock", user=USER, password=password).status == "wrong"
    assert agent.ask("status").text("sessions") == "0"


@pytest.mark.parametrize("user", [b"", b"\0", b"a\nb", b"\xff", b"x" * 255, b"nobody"], ids=repr)
def test_invalid_users(agent: AgentProcess, user: bytes) -> None:
    assert agent.ask("unlock", user=user, password=b"pw").status == "wrong"
    assert agent.ask("lookup", user=user).status == "unknown"
    behind = agent.ask("unlock", user=user, password=b"pw", behind=b"1")
    assert behind.status == "unknown"


def test_no_secret_and_no_forged_line_in_the_log(agent: AgentProcess) -> None:
    agent.ask("enroll", user=USER, password=b"sekrit-one")
    agent.ask("unlock", user=USER, password=b"sekrit-one", service=b"imap\nforged line")
    agent.ask("unlock", user=b"eve\nforged line", password=b"sekrit-two")
    agent.ask("passwd", user=USER, old=b"sekrit-one", new=b"sekrit-three")
    code = agent.ask("recovery", user=USER, password=b"sekrit-three").fields["code"]
    agent.ask("recover", user=USER, code=code, new=b"sekrit-four")
    keys = agent.ask("export", user=USER, secret=b"sekrit-four").text("keys")
    log = agent.log_text()
    assert "sekrit" not in log and b"sekrit".hex() not in log
    assert code.decode() not in log and code.decode().replace("-", "") not in log
    assert keys.split(":")[3] not in log
    assert not any(line.startswith("forged") for line in log.splitlines())
    assert "imap\\x0aforged line" in log


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
        busy: dict[str, int] = {}
        deadline = time.monotonic() + 20
        while slow.is_alive() and time.monotonic() < deadline:
            for task in os.listdir(f"/proc/{agent.pid}/task"):
                with contextlib.suppress(OSError):
                    if task != str(agent.pid) and ticks(agent.pid, task) >= 2:
                        busy[task] = os.getpriority(os.PRIO_PROCESS, int(task))
        slow.join()
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        assert busy and set(busy.values()) == {min(mine + 10, 19)}
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


def test_libc_is_there() -> None:
    """hardening.py uses these two functions."""
    libc = ctypes.CDLL(None)
    assert libc.prctl and libc.mlockall


def test_it_does_not_start_on_a_store_that_may_not_be_mounted(folder: Path) -> None:
    """A store made in an empty folder would mean that nobody is enrolled."""
    agent = AgentProcess(folder, CHEAP)
    for made in (False, True):
        if made:
            (folder / "state").mkdir()
        done = subprocess.run(
            [HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True, timeout=20
        )
        assert done.returncode == 75, "systemd tries again: it may be mounted later"
        assert b"is not a store of keys" in done.stderr and b"mailseal init" in done.stderr
        assert os.path.isdir(folder / "state") is made
    assert agent.run("init").returncode == 0
    assert agent.run("init").returncode == 0
    agent.start()
    assert agent.stop() == 0


@needs_root
def test_the_lock_file_is_not_followed(folder: Path) -> None:
    with running(folder) as agent:
        assert agent.stop() == 0
        lock = Path(f"{agent.socket}.lock")
        lock.unlink()
        secret = folder / "secret"
        secret.write_text("root's own")
        lock.symlink_to(secret)
        done = subprocess.run(
            [HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True, timeout=20
        )
        assert done.returncode == 75 and b"cannot listen" in done.stderr
        assert secret.stat().st_uid == 0


@needs_root
@pytest.mark.parametrize("what", ["socket", "log"])
def test_in_a_folder_of_another_user_root_follows_no_link(folder: Path, what: str) -> None:
    secret = folder / "shadow"
    secret.write_text("root's own\n")
    secret.chmod(0o600)
    theirs = folder / "run"
    theirs.mkdir()
    name = theirs / ("agent.sock" if what == "socket" else "mailseal.log")
    name.symlink_to(secret)
    os.chown(theirs, 60605, 60605)
    agent = AgentProcess(folder, CHEAP + (f"log: {{to: {name}}}\n" if what == "log" else ""))
    assert agent.run("init").returncode == 0
    done = subprocess.run(
        [HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True, timeout=20
    )
    assert done.returncode == 78, done.stderr
    assert str(name).encode() in done.stderr
    state = secret.stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (0, 0, 0o600)
    assert secret.read_text() == "root's own\n"
    assert name.is_symlink()


def test_a_keyring_that_a_crash_left_unpublished_is_published_at_the_start(folder: Path) -> None:
    with running(folder) as agent:
        agent.ask("enroll", user=USER, password=b"pw")
        assert agent.stop() == 0
        public = folder / "state" / "public"
        (public / "alice@example.org.json").unlink()
        (public / "enrolled" / "alice@example.org").unlink()
        agent.start()
        agent.ask("status")  # is answered when the agent has started
        assert (public / "alice@example.org.json").exists()
