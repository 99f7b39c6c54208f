# SPDX-License-Identifier: MIT
"""Who may talk to the agent, and what it keeps from other users of the machine."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from mailseal.login import protocol
from tests.unit.agent_process import CHEAP, HOOKS, PATIENCE, USER, AgentProcess, running

needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="only root can become another user and try to get in"
)
AGENT_UID = 60602


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
        said = as_uid(60604, TALK, str(agent.socket), verb)
        assert said.stdout.strip() == "denied", said
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
    agent.ask("lookup", user=b"nobody@example.org")  # it listens before that, and answers after it
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


def test_libc_is_there() -> None:
    """hardening.py uses these two functions."""
    libc = ctypes.CDLL(None)
    assert libc.prctl and libc.mlockall


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
            [HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True, timeout=PATIENCE
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
        [HOOKS / "mailseal-agent", "-c", agent.config], capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 78, done.stderr
    assert str(name).encode() in done.stderr
    state = secret.stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (0, 0, 0o600)
    assert secret.read_text() == "root's own\n"
    assert name.is_symlink()
