# SPDX-License-Identifier: MIT
"""Requests to the agent from a panel's uid: permitted ones, refused ones, and limits."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailseal.login import callers, panel_verbs, protocol
from mailseal.login.policy import Policy
from tests.unit.agent_process import CHEAP, HOOKS, AgentProcess, running
from tests.unit.verbs.world import World

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become the panel's user")

USER = "alice@example.org"
LOGIN, PANEL, OTHER = 60604, 60605, 60603
FIELDS = {"user": USER.encode(), "slot": b"zzz", "after": b"", "key_id": b"0" * 32}


@pytest.fixture
def agent(folder: Path) -> Iterator[AgentProcess]:
    with running(folder, f"{CHEAP}agent: {{panel_users: [{PANEL}]}}\n") as process:
        assert process.ask("enroll", user=USER.encode(), password=b"pw").status == "ok"
        yield process


def run_as(
    uid: int, agent: AgentProcess, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run the mailseal command as a panel does."""
    return subprocess.run(
        ["/usr/bin/python3", "-I", HOOKS / "mailseal", "-c", agent.config, *arguments],
        user=uid,
        group=uid,
        extra_groups=[],
        input=stdin,
        capture_output=True,
        cwd="/",
    )


ASK = """
import socket, sys
for line in sys.stdin:
    try:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(120)
        s.connect(sys.argv[1])
        s.sendall(line.encode())
        print((s.makefile().readline() or "nothing").split()[0])
    except OSError as exc:
        print(type(exc).__name__)
"""


def ask_as(uid: int, agent: AgentProcess, lines: list[bytes]) -> list[str]:
    """The status of each answer to raw requests."""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", ASK, str(agent.socket)],
        user=uid,
        group=uid,
        extra_groups=[],
        input=b"".join(lines),
        capture_output=True,
        cwd="/",
    )
    return done.stdout.decode().split()


def opens(agent: AgentProcess, password: bytes) -> bool:
    return agent.ask("unlock", user=USER.encode(), password=password).status == "ok"


def test_a_panel_changes_a_password(agent: AgentProcess) -> None:
    done = run_as(PANEL, agent, "passwd", USER, "--stdin", "--keep-old", stdin=b"pw\nnew\n")
    assert done.returncode == 0, done.stderr
    change = done.stdout.decode().strip()
    assert run_as(PANEL, agent, "passwd", USER, "--commit", "0" * 16).returncode == 65
    assert run_as(PANEL, agent, "passwd", USER, "--commit", change).returncode == 0
    assert opens(agent, b"new") and not opens(agent, b"pw")
    assert run_as(PANEL, agent, "passwd", USER, "--stdin", stdin=b"pw\nx\n").returncode == 77


def test_a_panel_does_all_that_a_password_or_code_proves(agent: AgentProcess) -> None:
    code = run_as(PANEL, agent, "recovery-code", USER, "--stdin", stdin=b"pw\n").stdout
    assert len(code) == 40
    app = run_as(PANEL, agent, "app-password", USER, "phone", "--stdin", stdin=b"pw\n").stdout
    assert opens(agent, app.strip())
    for secret in (b"pw\n", code):
        done = run_as(PANEL, agent, "status", USER, "--json", "--stdin", stdin=secret)
        (entry,) = json.loads(done.stdout)["users"]
        slots = {slot["kind"]: slot["id"] for slot in entry["slots"]}
        assert set(slots) == {"login", "recovery", "app"}
    revoke = ["revoke", USER, slots["app"], "--stdin"]
    assert run_as(PANEL, agent, *revoke, stdin=b"guess\n").returncode == 77
    assert run_as(PANEL, agent, *revoke[:-1]).returncode == 64
    assert opens(agent, app.strip())
    assert run_as(PANEL, agent, *revoke, stdin=b"pw\n").returncode == 0
    assert not opens(agent, app.strip())
    revoke[2] = slots["recovery"]
    assert run_as(PANEL, agent, *revoke, stdin=b"pw\n").returncode == 77
    assert run_as(PANEL, agent, "recover", USER, "--stdin", stdin=code + b"new\n").returncode == 0
    assert run_as(PANEL, agent, "rewrap", USER, "--stdin", stdin=b"new\n3\n").returncode == 0
    assert opens(agent, b"3")


def test_a_panel_learns_who_is_enrolled_and_no_more(agent: AgentProcess) -> None:
    assert run_as(PANEL, agent, "status", "nobody@example.org").returncode == 67
    done = run_as(PANEL, agent, "status", "--json", USER)
    assert json.loads(done.stdout)["users"] == [{"user": USER, "ways_in": ["login"]}]
    assert b"slots: login" in run_as(PANEL, agent, "status", USER).stdout
    done = run_as(PANEL, agent, "status", USER, "--stdin", stdin=b"guess\n")
    assert (done.returncode, done.stdout) == (77, b"")
    assert run_as(PANEL, agent, "status").returncode == 64


def test_the_agent_down_is_not_a_wrong_password(agent: AgentProcess) -> None:
    agent.stop()
    done = run_as(PANEL, agent, "passwd", USER, "--stdin", stdin=b"guess\nx\n")
    assert done.returncode == 75


# Verbs of the page for users, which a panel that only changes passwords must not have.
_SELF_SERVICE = (
    *("sign_in", "state", "begun", "enroll_begin", "enroll_finish"),
    *("seal_old", "leave", "stay", "end_sessions", "own_keys"),
)


def test_every_other_verb_is_denied(agent: AgentProcess) -> None:
    """All verbs of the agent, found by requests as root, so that new ones are tested too."""
    (agent.folder / "world").mkdir()
    world = World(agent.folder / "world", Policy())
    every = {*world.service.admin_verbs, *world.service.login_verbs, *_SELF_SERVICE}
    world.pools.stop()
    proven = {*panel_verbs._AS_THEY_ARE, "revoke", "status"}
    denied = sorted(every - proven)
    assert {"enroll", "unlock", "lookup", "open", "export", "backup", "lock"} <= set(denied)
    fields = {**FIELDS, "password": b"pw", "secret": b"pw"}
    lines = [protocol.encode(verb, fields) for verb in denied]
    assert ask_as(PANEL, agent, lines) == ["denied"] * len(denied)
    assert opens(agent, b"pw")


def test_then_never_runs_as_root(agent: AgentProcess) -> None:
    """The COMMAND of --then runs as the panel's user, never as root."""
    where = agent.folder / "who"
    where.mkdir()
    where.chmod(0o777)
    script = f"id -u > {where}/uid"
    command = ["passwd", "--stdin", USER, "--then", "/bin/sh", "-c", script]
    assert run_as(PANEL, agent, *command, stdin=b"pw\nnew\n").returncode == 0
    assert (where / "uid").read_text() == f"{PANEL}\n"
    command[2:2] = ["--keep-old"]
    assert run_as(PANEL, agent, *command, stdin=b"new\npw\n").returncode == 64


def test_another_uid_gets_nothing(agent: AgentProcess) -> None:
    lines = [protocol.encode(verb, FIELDS) for verb in ("status", "unlock", "passwd")]
    assert ask_as(OTHER, agent, lines) == ["PermissionError"] * 3
    assert run_as(OTHER, agent, "status", USER).returncode == 77
    agent.socket.chmod(0o666)  # the uid is checked with any mode
    assert ask_as(OTHER, agent, lines) == ["denied"] * 3
    assert run_as(OTHER, agent, "passwd", USER, stdin=b"pw\nnew\n").returncode == 77
    assert opens(agent, b"pw")


def test_login_users_are_no_panel_users(agent: AgentProcess) -> None:
    change = protocol.encode("passwd", {"user": USER.encode(), "old": b"pw", "new": b"x"})
    unlock = protocol.encode("unlock", {"user": USER.encode(), "password": b"pw"})
    assert ask_as(LOGIN, agent, [change, unlock]) == ["denied", "ok"]


HOLD = """
import socket, sys, time
held = []
for _ in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])  # waits while the agent's queue of connections is full
    held.append(s)
cut = 0
for s in held:
    s.setblocking(False)
deadline = time.monotonic() + 120
while cut < int(sys.argv[3]) and time.monotonic() < deadline:
    for s in held[:]:
        try:
            if not s.recv(1):
                cut += 1
                held.remove(s)
        except BlockingIOError:
            pass
print(cut, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holding(uid: int, agent: AgentProcess, number: int, cut: int) -> Iterator[int]:
    """Open connections of a uid without sending anything; how many were closed."""
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", HOLD, str(agent.socket), str(number), str(cut)],
        user=uid,
        group=uid,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.communicate()


def test_a_uid_holds_a_few_connections_and_others_go_on(agent: AgentProcess) -> None:
    agent.socket.chmod(0o666)
    too_many = 300 - callers.UNLISTED_AT_ONCE
    with holding(OTHER, agent, 300, too_many) as cut:
        assert cut == too_many
        assert opens(agent, b"pw")
    with holding(PANEL, agent, 100, 100 - callers.PANEL_AT_ONCE) as cut:
        assert cut == 100 - callers.PANEL_AT_ONCE
        assert run_as(PANEL, agent, "status", USER).returncode == 75
        assert opens(agent, b"pw")
    assert run_as(PANEL, agent, "status", USER).returncode == 0
    assert agent.log_text().count(f"refused uid={OTHER}") <= 3


def test_the_socket_names_the_panel_and_nobody_else(agent: AgentProcess) -> None:
    assert os.stat(agent.socket).st_mode & 0o007 == 0
    assert "system.posix_acl_access" in os.listxattr(agent.socket)


def test_guesses_of_a_panel_are_slowed_down(agent: AgentProcess) -> None:
    """For all verbs; and the administrator does not have to wait."""
    guesses = []
    for number in range(20):
        name = ("password", "old", "code", "secret")[number % 4]
        verb = {"password": "app", "old": "passwd", "code": "recover", "secret": "rewrap"}[name]
        fields = {"user": USER.encode(), "label": b"x", "new": b"new"}
        guesses.append(protocol.encode(verb, {**fields, name: b"guess %d" % number}))
    # The right password follows at once, and is not checked.
    right = protocol.encode("recovery", {"user": USER.encode(), "password": b"pw"})
    assert ask_as(PANEL, agent, [*guesses, right]) == ["error"] * 21
    log = agent.log_text()
    assert log.count(f"wrong password from an unknown address: user=<{USER}>") < 15
    assert "recovery-code: " not in log
    done = agent.run("recovery-code", USER, "--stdin", stdin=b"pw\n")
    assert done.returncode == 0, done.stderr


def test_a_field_that_the_verb_ignores_does_not_hide_a_guess(agent: AgentProcess) -> None:
    guesses = []
    for number in range(20):
        fields = {"user": USER.encode(), "old": b"0", "secret": b"guess %d" % number}
        guesses.append(protocol.encode("status", fields))
    right = protocol.encode("recovery", {"user": USER.encode(), "password": b"pw"})
    assert ask_as(PANEL, agent, [*guesses, right]) == ["error"] * 21
    assert "recovery-code: " not in agent.log_text()


def test_a_request_without_a_secret_ends_no_session_and_is_not_logged(agent: AgentProcess) -> None:
    assert opens(agent, b"pw")
    before = agent.log_text()
    user = USER.encode()
    unproven = {
        "passwd": {"old": b"guess", "new": b""},
        "app": {"password": b"guess", "label": b"\t"},
        "commit": {"change": b"0" * 16},
        "undo": {"change": b"0" * 16},
        "rewrap": {"secret": b"guess", "new": b"x" * 300},
        "recover": {"code": b"guess", "new": b"x"},
    }
    lines = [protocol.encode(verb, {"user": user, **rest}) for verb, rest in unproven.items()]
    nobody = {"user": b"nobody@example.org", "code": b"guess", "new": b"x"}
    lines.append(protocol.encode("recover", nobody))
    assert ask_as(PANEL, agent, lines * 20) == ["error"] * 140
    assert json.loads(agent.ask("status").fields["users"])[0]["session"] is not None
    assert agent.log_text().count("\n") - before.count("\n") < 5


def test_a_panel_cannot_report_an_address(agent: AgentProcess) -> None:
    """A panel could otherwise cause a ban or a delay for other addresses."""
    victim, others = "203.0.113.7", [b"user%d@example.org" % n for n in range(40)]
    for name in others:
        agent.ask("enroll", user=name, password=b"pw")
    lines = [
        protocol.encode(
            "passwd", {"user": n, "old": b"guess", "new": b"x", "remote": victim.encode()}
        )
        for n in others
    ]
    assert ask_as(PANEL, agent, lines) == ["error"] * len(lines)
    assert victim not in agent.log_text()
    unlock = {"user": USER.encode(), "password": b"pw", "remote": victim.encode()}
    assert agent.ask("unlock", **unlock).status == "ok"


def test_an_attack_on_logins_does_not_affect_the_panel(agent: AgentProcess) -> None:
    fields = {"user": USER.encode(), "remote": b"203.0.113.7"}
    answers = [agent.ask("unlock", **fields, password=b"guess %d" % n).status for n in range(20)]
    assert answers[-1] == "temporary"
    done = run_as(PANEL, agent, "passwd", USER, "--stdin", stdin=b"pw\nnew\n")
    assert done.returncode == 0, done.stderr


def test_a_panel_cannot_rekey(agent: AgentProcess) -> None:
    """It refuses before the password has changed."""
    app = run_as(PANEL, agent, "app-password", USER, "a", "--stdin", stdin=b"pw\n")
    slot = app.stderr.decode().partition("slot ")[2].partition(";")[0]
    keys = json.loads(agent.ask("status").fields["users"])[0]["keys"]
    fields = {"user": USER.encode(), "password": b"pw", "slot": slot.encode(), "rekey": b"1"}
    assert ask_as(PANEL, agent, [protocol.encode("revoke", fields)]) == ["error"]
    command = ["passwd", USER, "--stdin", "--compromised"]
    assert run_as(PANEL, agent, *command, stdin=b"pw\nnew\n").returncode == 77
    assert opens(agent, b"pw") and not opens(agent, b"new")
    assert json.loads(agent.ask("status").fields["users"])[0]["keys"] == keys
