# SPDX-License-Identifier: MIT
"""Dovecot's index of an enrolled user in a folder under fscrypt, with a real kernel and Dovecot."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from mailseal.index import fscrypt
from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from mailseal.login.client import AgentClient
from tests.lab import ALICE, Imap, Lab, LabError, Pop3
from tests.lab.place import MAIL_UID
from tests.lab.process import wait_until
from tests.lab.smtp import send
from tests.lab.volume import image_of

WORD = "Rhabarberbarbara"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def index_lab(volume: str) -> Iterator[Lab]:
    extra = {"index.folder": f"{volume}/index", "index.lock_after": "2s"}
    with Lab({}, config_extra=extra) as made:
        yield made


@pytest.fixture
def user(index_lab: Lab) -> str:
    name = f"index{next(_numbers)}@example.org"
    index_lab.add_user(name)
    return name


def _mail(user: str, subject: str) -> bytes:
    lines = ["Date: Fri, 27 Nov 2026 12:00:00 +0000", "From: eve@example.net", f"To: {user}"]
    return "\n".join([*lines, f"Subject: {subject}", "", "Text", ""]).encode()


def _deliver(lab: Lab, user: str, *subjects: str) -> None:
    for subject in subjects:
        send(lab.smtp, "eve@example.net", [user], _mail(user, subject))
        lab.wait_delivered()  # in this order


def _subjects(imap: Imap, mailbox: str = "INBOX") -> list[str]:
    count = imap.select(mailbox)
    if not count:
        return []
    found = imap.command(b"FETCH 1:* (ENVELOPE)")
    return [line.split(b'"')[3].decode() for line in found if b"ENVELOPE" in line]


def _state(lab: Lab, user: str) -> State | None:
    folder = os.path.join(os.path.dirname(_path(lab, user)))
    found = Folders(folder, MAIL_UID).state(folder_name(user))
    return found[1] if found else None


def _path(lab: Lab, user: str) -> str:
    import yaml

    with open(lab.config_path, encoding="utf-8") as stream:
        folder: str = yaml.safe_load(stream)["index"]["folder"]
    return os.path.join(folder, folder_name(user))


def _wait_locked(lab: Lab, user: str) -> None:
    wait_until(lambda: _state(lab, user) is State.ABSENT, f"the index of {user} is locked")


def _files(*folders: str) -> list[str]:
    return [
        os.path.join(root, name)
        for folder in folders
        for root, _, names in os.walk(folder)
        for name in names
    ]


def test_index_is_only_in_the_folder(index_lab: Lab, user: str) -> None:
    """Cache, log and mailbox list are in the folder during a session; then it is locked."""
    _deliver(index_lab, user, f"{WORD} 1", f"{WORD} 2")
    assert _state(index_lab, user) is None
    with index_lab.login(user) as imap:
        assert _subjects(imap) == [f"{WORD} 1", f"{WORD} 2"]
        assert _state(index_lab, user) is State.PRESENT
        names = {os.path.basename(path) for path in _files(_path(index_lab, user))}
        assert "dovecot.index.cache" in names
    elsewhere = _files(index_lab.home(user))
    assert not [path for path in elsewhere if path.endswith("index.cache")]
    _wait_locked(index_lab, user)
    with pytest.raises(OSError, match="Required key not available"):
        open(os.path.join(_path(index_lab, user), "x"), "w").close()
    # mail that arrives while it is locked is found at the next login, and the old cache is used
    _deliver(index_lab, user, f"{WORD} 3")
    with Pop3(index_lab.pop3, user, "password") as pop3:
        assert pop3.count() == 3
        assert _state(index_lab, user) is State.PRESENT
    with index_lab.login(user) as imap:
        assert _subjects(imap) == [f"{WORD} 1", f"{WORD} 2", f"{WORD} 3"]
    assert "Error" not in index_lab.dovecot.log_text()


def test_locked_image_contains_no_text_of_the_mail(index_lab: Lab, user: str, volume: str) -> None:
    word = "Quittenkompott"
    _deliver(index_lab, user, f"{word} 1")
    with index_lab.login(user) as imap:
        assert _subjects(imap) == [f"{word} 1"]
        cache = [p for p in _files(_path(index_lab, user)) if p.endswith("index.cache")]
        with open(cache[0], "rb") as stream:
            assert word.encode() in stream.read()
    _wait_locked(index_lab, user)
    try:
        image = image_of(volume)
    except LabError:
        return  # the volume is a folder of the host's
    os.sync()
    with open(image, "rb") as stream:
        assert word.encode() not in stream.read()


def test_idle_session_keeps_the_folder_open(index_lab: Lab, user: str) -> None:
    """Several connections, one of them idle and without a mailbox: the folder stays open."""
    _deliver(index_lab, user, f"{WORD} 1")
    with index_lab.login(user) as silent:
        with index_lab.login(user) as other:
            assert _subjects(other) == [f"{WORD} 1"]
        time.sleep(5)  # longer than lock_after and a sweep
        assert _state(index_lab, user) is State.PRESENT
        assert _subjects(silent) == [f"{WORD} 1"]
    _wait_locked(index_lab, user)
    assert "Error" not in index_lab.dovecot.log_text()


def test_killed_imap_process_leaves_nothing_open(index_lab: Lab, user: str) -> None:
    _deliver(index_lab, user, f"{WORD} 1")
    imap = index_lab.login(user)
    assert _subjects(imap) == [f"{WORD} 1"]

    def pids() -> list[int]:
        lines = index_lab.dovecot.doveadm("who", "-1", user).decode().splitlines()[1:]
        return [int(line.split()[2]) for line in lines]

    wait_until(pids, "anvil knows the session")
    for pid in pids():
        os.kill(pid, signal.SIGKILL)
    _wait_locked(index_lab, user)
    with index_lab.login(user) as again:
        assert _subjects(again) == [f"{WORD} 1"]


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL], ids=["restarted", "killed"])
def test_new_agent_finds_folders_that_the_old_one_left_open(
    index_lab: Lab, user: str, sig: signal.Signals
) -> None:
    """With a session the folder stays open, without one it is locked."""
    other = f"other.{user}"
    index_lab.add_user(other)
    _deliver(index_lab, user, f"{WORD} 1")
    with index_lab.login(user) as imap:
        with index_lab.login(other) as second:
            assert _subjects(second) == []
            index_lab.agent.stop(sig)
        assert _state(index_lab, user) is State.PRESENT
        index_lab.start_agent()
        _wait_locked(index_lab, other)
        time.sleep(4)
        assert _state(index_lab, user) is State.PRESENT
        assert _subjects(imap) == [f"{WORD} 1"]
        imap.append("Sent", _mail(user, f"{WORD} 2").replace(b"\n", b"\r\n"))
        assert _subjects(imap, "Sent") == [f"{WORD} 2"]
    _wait_locked(index_lab, user)


def test_login_whose_session_has_not_begun_is_not_locked_out(index_lab: Lab, user: str) -> None:
    """The agent stops after it has answered a login, before Dovecot has started the session."""
    with AgentClient(index_lab.agent_socket, 60) as agent:
        reply = agent.request("unlock", user=user.encode(), password=b"password", service=b"imap")
    assert reply.status == "ok"
    index_lab.stop_agent()
    try:
        assert _state(index_lab, user) is State.PRESENT
    finally:
        index_lab.start_agent()
    _wait_locked(index_lab, user)


def test_session_that_anvil_does_not_know_keeps_its_files(index_lab: Lab, user: str) -> None:
    """Dovecot's anvil was killed and knows no sessions: open files decide."""
    _deliver(index_lab, user, f"{WORD} 1")
    with index_lab.login(user) as imap:
        assert _subjects(imap) == [f"{WORD} 1"]
        (anvil,) = index_lab.dovecot.processes("anvil")
        os.kill(anvil, signal.SIGKILL)
        again = lambda: set(index_lab.dovecot.processes("anvil")) - {anvil}  # noqa: E731
        wait_until(again, "anvil runs again")
        time.sleep(6)
        assert _state(index_lab, user) is State.PRESENT
        assert _subjects(imap) == [f"{WORD} 1"]
    _wait_locked(index_lab, user)


def test_lock_locks_under_a_session(index_lab: Lab, user: str) -> None:
    """The folder is locked at once, even with a session, which cannot continue."""
    _deliver(index_lab, user, f"{WORD} 1")
    imap = index_lab.login(user)
    assert _subjects(imap) == [f"{WORD} 1"]
    done = index_lab.mailseal("lock", user, "--kicked")
    assert done.returncode == 0, done.stderr
    assert _state(index_lab, user) in (State.ABSENT, State.BUSY)
    status = index_lab.mailseal("status", user).stdout.decode()
    assert "index: encrypted and locked" in status
    index_lab.dovecot.doveadm("kick", user)
    _wait_locked(index_lab, user)
    with index_lab.login(user) as again:
        assert _subjects(again) == [f"{WORD} 1"]
        assert "index: encrypted and open" in index_lab.mailseal("status", user).stdout.decode()


def test_rekey_makes_a_new_folder(index_lab: Lab, user: str) -> None:
    _deliver(index_lab, user, f"{WORD} 1")
    folders = Folders(os.path.dirname(_path(index_lab, user)), MAIL_UID)
    with index_lab.login(user) as imap:
        assert _subjects(imap) == [f"{WORD} 1"]
        before = folders.state(folder_name(user))
        done = index_lab.mailseal("rekey", user, "--stdin", stdin=b"password\n")
        assert done.returncode == 0, done.stderr
        with index_lab.login(user) as second:
            assert _subjects(second) == [f"{WORD} 1"]
            after = folders.state(folder_name(user))
            assert before and after and before[0] != after[0]
    _wait_locked(index_lab, user)
    fd = os.open(folders.root, os.O_RDONLY)
    try:
        wait_until(lambda: fscrypt.state(fd, before[0]) is State.ABSENT, "the old key is gone")
    finally:
        os.close(fd)
    wait_until(
        lambda: not [name for name in os.listdir(folders.root) if name.startswith(".")],
        "the old folder is removed, although it is locked",
    )


def test_unenrolled_user_leaves_no_folder(index_lab: Lab, user: str) -> None:
    with index_lab.login(user) as imap:
        imap.select()
    assert os.path.exists(_path(index_lab, user))
    with AgentClient(index_lab.agent_socket, 60) as agent:
        assert agent.request("unenroll", user=user.encode()).status == "ok"
    root = os.path.dirname(_path(index_lab, user))
    wait_until(
        lambda: not [n for n in os.listdir(root) if n.startswith(".") or n == folder_name(user)],
        "the folder is removed",
    )


@pytest.mark.parametrize("harm", ["cut", "garbage", "removed", "empty folder"])
def test_damaged_index_is_built_again(index_lab: Lab, user: str, harm: str) -> None:
    _deliver(index_lab, user, f"{WORD} 1", f"{WORD} 2")
    with index_lab.login(user) as imap:
        assert _subjects(imap) == [f"{WORD} 1", f"{WORD} 2"]
        inside = _files(_path(index_lab, user))
    with index_lab.login(user) as imap:  # the first counted one; opens the folder
        pass
    for path in inside:
        # Dovecot refuses one SELECT after its log was truncated, in any folder
        if harm == "cut" and path.endswith("cache"):
            os.truncate(path, os.stat(path).st_size // 2)
        elif harm == "garbage":
            with open(path, "r+b") as stream:
                stream.write(os.urandom(os.stat(path).st_size))
        elif harm == "removed":
            os.unlink(path)
    if harm == "empty folder":
        shutil.rmtree(_path(index_lab, user), ignore_errors=True)
    with index_lab.login(user) as imap:
        assert _subjects(imap) == [f"{WORD} 1", f"{WORD} 2"]


def test_without_the_file_system_logins_succeed(index_lab: Lab, user: str) -> None:
    """The folder is missing, as if its file system were not mounted: the usual index is used."""
    _deliver(index_lab, user, f"{WORD} 1")
    root = os.path.dirname(_path(index_lab, user))
    os.rename(root, f"{root}.away")
    try:
        with index_lab.login(user) as imap:
            assert _subjects(imap) == [f"{WORD} 1"]
        status = index_lab.mailseal("status", user).stdout.decode()
        assert "WARNING: the index is not encrypted" in status
    finally:
        os.rename(f"{root}.away", root)
    with index_lab.login(user) as imap:
        assert _subjects(imap) == [f"{WORD} 1"]
        assert _state(index_lab, user) is State.PRESENT


def test_hibernated_session_keeps_the_folder_open(volume: str) -> None:
    """The session has no imap process, but anvil counts imap-hibernate too."""
    services = "\n".join(
        f"service {service} {{\n  unix_listener {listener} {{\n    mode = 0666\n  }}\n}}"
        for service, listener in (("imap", "imap-master"), ("imap-hibernate", "imap-hibernate"))
    )
    with Lab(
        {ALICE: "password"},
        config_extra={"index.folder": f"{volume}/hibernated", "index.lock_after": "2s"},
        dovecot_extra=f"{services}\nprotocol imap {{\n  imap_hibernate_timeout = 1s\n}}\n",
    ) as lab:
        _deliver(lab, ALICE, f"{WORD} 1")
        with lab.login(ALICE) as imap:
            assert _subjects(imap) == [f"{WORD} 1"]
            imap.idle()
            wait_until(lambda: not lab.dovecot.processes("imap"), "the session is hibernated")
            time.sleep(6)
            assert _state(lab, ALICE) is State.PRESENT
            imap.done()
            assert _subjects(imap) == [f"{WORD} 1"]
        _wait_locked(lab, ALICE)
