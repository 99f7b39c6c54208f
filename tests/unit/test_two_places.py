# SPDX-License-Identifier: MIT
"""A new password in two places: the password in the user database always opens the mail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.place import let_others_in
from tests.lab.process import children
from tests.unit.agent_process import CHEAP, HOOKS, AgentProcess, running

USER = "alice@example.org"
BEHIND = f"{CHEAP}login: {{password_check: passdb}}\n"
Change = tuple[int, bool, bool]
"""Exit status, and whether the old and the new password open the keyring."""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with running(tmp_path, BEHIND) as process:
        assert process.ask("enroll", user=USER.encode(), password=b"pw").status == "ok"
        yield process


def opens(agent: AgentProcess, password: bytes) -> bool:
    return agent.ask("unlock", user=USER.encode(), password=password).status == "ok"


def vouched(agent: AgentProcess, password: bytes) -> str:
    """A login that the other passdb has accepted."""
    return agent.ask("unlock", user=USER.encode(), password=password, behind=b"1").status


def both(agent: AgentProcess) -> tuple[bool, bool]:
    return opens(agent, b"pw"), opens(agent, b"new")


def begin(agent: AgentProcess, old: bytes = b"pw", new: bytes = b"new") -> str:
    done = agent.run("passwd", USER, "--stdin", "--keep-old", stdin=old + b"\n" + new + b"\n")
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"" and done.stdout.count(b"\n") == 1
    return done.stdout.decode().strip()


def then(agent: AgentProcess, script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["passwd", "--stdin", USER, "--then", "sh", "-c", script, "sh", *arguments]
    return agent.run(*command, stdin=b"pw\nnew\n")


class TestInTwoSteps:
    @pytest.mark.parametrize(
        ("end", "after"), [("--commit", (False, True)), ("--undo", (True, False))]
    )
    def test_a_change_is_named_and_ended(
        self, agent: AgentProcess, end: str, after: tuple[bool, bool]
    ) -> None:
        change = begin(agent)
        assert both(agent) == (True, True)
        assert f"--commit {change}`" in agent.run("status", USER).stdout.decode()
        done = agent.run("passwd", USER, end, change)
        assert (done.returncode, both(agent)) == (0, after)

    def test_commit_once_more_does_no_harm_and_undo_comes_too_late(
        self, agent: AgentProcess
    ) -> None:
        change = begin(agent)
        for _ in range(2):
            assert agent.run("passwd", USER, "--commit", change).returncode == 0
        done = agent.run("passwd", USER, "--undo", change)
        assert done.returncode == 65 and b"not open any more" in done.stderr
        assert both(agent) == (False, True)

    def test_a_change_that_was_undone_cannot_be_committed(self, agent: AgentProcess) -> None:
        change = begin(agent)
        agent.run("passwd", USER, "--undo", change)
        for end in ("--commit", "--undo"):
            assert agent.run("passwd", USER, end, change).returncode == 65
        assert both(agent) == (True, False)

    @pytest.mark.parametrize("end", ["--commit", "--undo"])
    def test_another_change_cannot_be_ended(self, agent: AgentProcess, end: str) -> None:
        mine = begin(agent)
        agent.run("passwd", USER, "--undo", mine)
        begin(agent, new=b"another")
        assert agent.run("passwd", USER, end, mine).returncode == 65
        assert opens(agent, b"pw") and opens(agent, b"another")

    def test_a_second_change_is_refused_at_once(self, agent: AgentProcess) -> None:
        """Two tabs: the hash of one change and the slot of the other would lock the user out."""
        change = begin(agent)
        for more in (["--keep-old"], [], ["--then", "true"]):
            done = agent.run("passwd", USER, "--stdin", *more, stdin=b"pw\nsecond\n")
            assert done.returncode == 75 and b"another password change for" in done.stderr
        assert both(agent) == (True, True) and not opens(agent, b"second")
        assert agent.run("passwd", USER, "--commit", change).returncode == 0

    def test_a_double_submit(self, agent: AgentProcess) -> None:
        """Eight changes at the same time: one succeeds in both places, the others fail."""
        hashes = agent.folder / "database"
        hashes.write_text("pw\n")
        ended: dict[str, int] = {}

        def submit(number: int) -> None:
            new = f"new{number}"
            script = f"cat > {hashes}"
            command = ["passwd", USER, "--stdin", "--then", "sh", "-c", script]
            ended[new] = agent.run(*command, stdin=f"pw\n{new}\n".encode()).returncode

        threads = [threading.Thread(target=submit, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(ended.values()) <= {0, 75, 77}, "77: the old password is not valid any more"
        (won,) = [new for new, status in ended.items() if status == 0]
        assert hashes.read_text() == f"{won}\n"
        assert [new for new in ("pw", *ended) if opens(agent, new.encode())] == [won]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--keep-old", "--then", "true"],
            ["--undo", "x", "--then", "true"],
            ["--commit", "x", "--then", "true"],
            ["--undo", "x", "--keep-old"],
            ["--undo", "x", "--commit", "x"],
            ["--undo"],
            ["--commit"],
            ["--then"],
        ],
    )
    def test_what_does_not_go_together(self, agent: AgentProcess, arguments: list[str]) -> None:
        done = agent.run("passwd", USER, "--stdin", *arguments, stdin=b"pw\nnew\n")
        assert (done.returncode, done.stdout) == (64, b"") and both(agent) == (True, False)


class TestThen:
    def test_done(self, agent: AgentProcess) -> None:
        got = agent.folder / "got"
        done = then(agent, f"cat > {got}")
        assert (done.returncode, done.stderr) == (0, b"")
        assert got.read_bytes() == b"new\n" and both(agent) == (False, True)

    @pytest.mark.parametrize("status", [64, 65, 67, 69, 77, 78])
    def test_certainly_nothing_changed(self, agent: AgentProcess, status: int) -> None:
        done = then(agent, f"exit {status}")
        assert done.returncode == 69 and b"nothing has changed" in done.stderr
        assert both(agent) == (True, False)

    def test_what_cannot_be_run(self, agent: AgentProcess) -> None:
        done = agent.run("passwd", USER, "--then", "/nonexistent", stdin=b"pw\nnew\n")
        assert done.returncode == 69 and b"nothing has changed" in done.stderr
        assert both(agent) == (True, False)

    @pytest.mark.parametrize("end", ["exit 1", "exit 75", "exit 127", "kill -9 $$", "kill -15 $$"])
    def test_an_unknown_outcome_is_not_a_failure(self, agent: AgentProcess, end: str) -> None:
        done = then(agent, end)
        assert done.returncode == 75 and b"is not known" in done.stderr
        assert b"both open the keyring" in done.stderr and both(agent) == (True, True)

    @pytest.mark.parametrize("accepted", [b"pw", b"new"])
    def test_then_a_login_decides(self, tmp_path: Path, accepted: bytes) -> None:
        with running(tmp_path, BEHIND) as agent:
            agent.ask("enroll", user=USER.encode(), password=b"pw")
            then(agent, "exit 1")
            assert vouched(agent, accepted) == "ok"
            assert both(agent) == ((True, True) if accepted == b"pw" else (False, True))

    def test_killed_before_command_and_during_it(self, agent: AgentProcess) -> None:
        done = then(agent, "kill -9 $PPID")
        assert done.returncode == -9 and both(agent) == (True, True)

    def test_command_succeeded_commit_did_not(self, agent: AgentProcess) -> None:
        """The agent dies during COMMAND, which has changed the hash; so the status is 76."""
        done = then(agent, f"kill -9 {agent.pid}")
        assert done.returncode == 76 and b"has changed the user database" in done.stderr
        assert b"both open the keyring" in done.stderr
        agent.start()
        assert both(agent) == (True, True)
        assert vouched(agent, b"new") == "ok" and both(agent) == (False, True)

    def test_the_agent_dies_and_command_refuses(self, agent: AgentProcess) -> None:
        done = then(agent, f"kill -9 {agent.pid}; exit 67")
        assert done.returncode == 69 and b"both open the keyring" in done.stderr
        agent.start()
        assert both(agent) == (True, True)

    def test_the_agent_is_down_before(self, agent: AgentProcess) -> None:
        agent.stop(signal.SIGKILL)
        got = agent.folder / "got"
        done = then(agent, f"touch {got}")
        assert done.returncode == 75 and not got.exists()
        agent.start()
        assert both(agent) == (True, False)

    def test_a_change_undone_by_an_administrator_meanwhile(self, agent: AgentProcess) -> None:
        mailseal = f"{HOOKS}/mailseal -c {agent.config}"
        script = (
            f"id=$({mailseal} status {USER} | grep -o 'undo [^`]*' | cut -c6-); "
            f"{mailseal} passwd {USER} --undo $id >&2"
        )
        done = then(agent, script)
        assert done.returncode == 76 and b"does not have the new password" in done.stderr
        assert b"mailseal rewrap" in done.stderr and both(agent) == (True, False)

    def test_a_login_with_the_new_password_comes_before_commit(self, agent: AgentProcess) -> None:
        ask = f"{HOOKS}/mailseal-checkpassword --socket {agent.socket}"
        ask += f" --public {agent.folder}/state/public --behind-passdb x"
        script = f"printf '{USER}\\0new\\0001\\0' | {ask} 3<&0 4>/dev/null"
        done = then(agent, script)
        assert done.returncode == 0, done.stderr
        assert both(agent) == (False, True)


class TestRecover:
    @pytest.fixture
    def code(self, agent: AgentProcess) -> bytes:
        return agent.run("recovery-code", USER, stdin=b"pw\n").stdout.strip()

    def test_it_says_what_else_is_to_be_changed(self, agent: AgentProcess, code: bytes) -> None:
        done = agent.run("recover", USER, stdin=code + b"\nnew\n")
        assert done.returncode == 0 and b"only the keyring has the new password" in done.stderr
        assert both(agent) == (False, True)

    def test_not_where_the_keyring_is_the_only_check(self, tmp_path: Path) -> None:
        with running(tmp_path, CHEAP) as agent:
            agent.ask("enroll", user=USER.encode(), password=b"pw")
            code = agent.run("recovery-code", USER, stdin=b"pw\n").stdout.strip()
            done = agent.run("recover", USER, stdin=code + b"\nnew\n")
            assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.parametrize(
        ("script", "status", "after"),
        [("cat", 0, (False, True)), ("exit 67", 69, (True, False)), ("exit 1", 75, (True, True))],
    )
    def test_with_then_it_changes_both(
        self, agent: AgentProcess, code: bytes, script: str, status: int, after: tuple[bool, bool]
    ) -> None:
        command = ["recover", USER, "--stdin", "--then", "sh", "-c", script]
        done = agent.run(*command, stdin=code + b"\nnew\n")
        assert done.returncode == status and both(agent) == after
        assert b"only the keyring" not in done.stderr

    def test_in_two_steps(self, agent: AgentProcess, code: bytes) -> None:
        done = agent.run("recover", USER, "--stdin", "--keep-old", stdin=code + b"\nnew\n")
        assert both(agent) == (True, True)
        change = done.stdout.decode().strip()
        assert agent.run("passwd", USER, "--undo", change).returncode == 0
        assert both(agent) == (True, False)


def test_where_the_keyring_alone_checks_a_login_decides_too(tmp_path: Path) -> None:
    """If a panel has died, nobody else would complete its change: the old password would stay."""
    with running(tmp_path) as agent:
        assert agent.ask("enroll", user=USER.encode(), password=b"pw").status == "ok"
        begin(agent)
        assert both(agent) == (True, True)
        assert both(agent) == (False, True)


class TestWhatBecameOfCommand:
    """Only an exit status of COMMAND itself can mean that nothing has changed."""

    def test_a_parent_that_ignores_sigchld_makes_no_failure_a_success(
        self, agent: AgentProcess
    ) -> None:
        command = [str(HOOKS / "mailseal"), "-c", str(agent.config), "passwd", "--stdin", USER]
        done = subprocess.run(
            [*command, "--then", "sh", "-c", "exit 69"],
            input=b"pw\nnew\n",
            capture_output=True,
            preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        )
        assert (done.returncode, both(agent)) == (69, (True, False)), done.stderr

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can make a program like sudo")
    def test_a_command_of_roots_that_cannot_be_killed_is_not_known_to_have_changed_nothing(
        self, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("sudo")
        let_others_in(folder)
        sudo = folder / "as-root"
        shutil.copy(os.path.realpath("/usr/bin/python3"), sudo)
        sudo.chmod(0o4755)
        script = "import os, time; os.setuid(0); print(end='.', flush=True); time.sleep(600)"
        with running(folder, f"{BEHIND}agent: {{panel_users: [60605]}}\n") as agent:
            assert agent.ask("enroll", user=USER.encode(), password=b"pw").status == "ok"
            command = [str(HOOKS / "mailseal"), "-c", str(agent.config), "passwd", "--stdin", USER]
            panel = subprocess.Popen(
                ["/usr/bin/python3", "-I", *command, "--then", str(sudo), "-I", "-c", script],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                user=60605,
                group=60605,
                extra_groups=[],
                cwd="/",
            )
            assert panel.stdin is not None and panel.stderr is not None
            panel.stdin.write(b"pw\nnew\n")
            panel.stdin.close()
            assert panel.stderr.read(1) == b"."
            (child,) = children(panel.pid)
            try:
                panel.send_signal(signal.SIGINT)
                assert panel.wait(120) == 75
                assert os.path.exists(f"/proc/{child}")  # it may still change the hash
                assert both(agent) == (True, True)
            finally:
                os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(shutil.which("php") is None, reason="needs php")
@pytest.mark.parametrize("user", ["-h", "-h@example.org", "--compromised"])
def test_a_panel_takes_no_name_for_an_option(agent: AgentProcess, user: str) -> None:
    """`mailseal passwd -h` exits with 0: the panel would then change only the hash."""
    panels = HOOKS / "panels" / "mailseal.php"
    script = "require $argv[1]; $it = new MailsealPasswd($argv[2], array_slice($argv, 3)); "
    script += "echo $it->begin('pw', 'new');"
    command = [str(HOOKS / "mailseal"), "-c", str(agent.config)]
    begin = ["php", "-r", script, "--", str(panels), user, *command]
    assert subprocess.run(begin, capture_output=True).stdout == b"67"
    assert agent.run("enroll", "--stdin", "--unchecked", "--", user, stdin=b"pw\n").returncode == 0
    assert subprocess.run(begin, capture_output=True).stdout == b"0"
    unlock = agent.ask("unlock", user=user.encode(), password=b"new")
    assert unlock.status == "ok"
