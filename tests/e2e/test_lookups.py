# SPDX-License-Identifier: MIT
"""Dovecot 2.3 without Lua: a process of the agent answers lookups, and the program if it cannot."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.e2e.lookup_process import lookup_process, lookup_socket, status_of
from tests.e2e.mails import HEADERS
from tests.lab import ALICE, Imap, Lab, LabError, Pop3, Refused
from tests.lab.dovecot import installed_version, series
from tests.lab.process import wait_until
from tests.lab.smtp import send, send_lmtp

pytestmark = pytest.mark.skipif(
    series(installed_version()) != "2.3", reason="Dovecot 2.4 has no checkpassword driver"
)

SENDER = "eve@example.net"
PLAIN = "plain@example.org"
ODD = "o|dd@example.org"
MAIL = HEADERS + b"the tangerine is in the cellar\r\n"
# With the auth cache, because cached answers would be wrong after an enrollment.
EXTRA = "auth_cache_size = 10 M\nauth_username_chars =\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(
        auth="behind-passwd-file-checkpassword",
        plain_users={PLAIN: "password", ODD: "password"},
        dovecot_extra=EXTRA,
    ) as made:
        yield made


@contextlib.contextmanager
def without_program(lab: Lab) -> Iterator[None]:
    """Whoever starts the program fails."""
    path = lab.place.path("code", "hooks", "mailseal-checkpassword")
    os.chmod(path, 0)
    try:
        yield
    finally:
        os.chmod(path, 0o755)


def first_bytes(lab: Lab, user: str, folder: str = "") -> set[bytes]:
    found = set()
    for path in lab.stored(user, folder):
        with open(path, "rb") as stream:
            found.add(stream.read(7))
    return found


def append(lab: Lab, user: str) -> None:
    with Imap(lab.imap, user, "password") as imap:
        imap.append("Sent", MAIL)


def logged_in(lab: Lab, user: str) -> bool:
    try:
        append(lab, user)
    except Refused:
        return False
    return True


def test_no_program_is_started(lab: Lab) -> None:
    """For lookups, deliveries, and logins of users who are not enrolled."""
    with without_program(lab):
        send(lab.smtp, SENDER, [ALICE, PLAIN], MAIL)
        lab.wait_delivered()
        append(lab, PLAIN)
        with Pop3(lab.pop3, PLAIN, "password") as pop3:
            assert pop3.mail(1).endswith(MAIL[-20:])
        assert b"public_key" in lab.dovecot.doveadm("user", ALICE)
        with pytest.raises(Refused):
            append(lab, ALICE)
    append(lab, ALICE)
    assert first_bytes(lab, ALICE) == first_bytes(lab, ALICE, "Sent") == {b"CRYPTED"}
    assert first_bytes(lab, PLAIN) | first_bytes(lab, PLAIN, "Sent") == {b"Return-", b"From: <"}


def test_nothing_is_cached(lab: Lab) -> None:
    """Lookups and logins before an enrollment, and the same after it."""
    user = "late@example.org"
    lab.dovecot.write_users({**lab.users, **lab.options.plain_users, user: "password"})
    for _ in range(2):
        append(lab, user)
        assert b"save_version\t0" in lab.dovecot.doveadm("user", user)
    done = lab.mailseal("enroll", "--stdin", user, stdin=b"password\n")
    assert done.returncode == 0, done.stderr
    before = len(lab.stored(user, "Sent"))
    assert b"public_key" in lab.dovecot.doveadm("user", user)
    assert lab.dovecot.doveadm("save", "-u", user, "-m", "INBOX", stdin=MAIL) == b""
    append(lab, user)
    assert first_bytes(lab, user) == {b"CRYPTED"}
    heads = []
    for path in lab.stored(user, "Sent"):
        with open(path, "rb") as stream:
            heads.append(stream.read(7))
    assert heads.count(b"CRYPTED") == 1 and len(heads) == before + 1
    lab.dovecot.write_users({**lab.users, **lab.options.plain_users})


@pytest.mark.parametrize("fault", ["process is killed", "agent is down"])
def test_without_the_process_the_program_is_started(lab: Lab, fault: str) -> None:
    if fault == "process is killed":
        os.kill(lookup_process(lab), signal.SIGKILL)
        wait_until(lambda: "process for lookups has ended" in lab.log_text(), "the agent logs it")
    else:
        lab.stop_agent()
    try:
        before = len(lab.stored(ALICE)), len(lab.stored(PLAIN))
        append(lab, PLAIN)
        lab.restart_delivery()  # it forgets the results of lookups
        for user in (ALICE, PLAIN):
            assert send_lmtp(lab.lmtp, SENDER, [user], MAIL)[0][0] == 250
        assert (len(lab.stored(ALICE)), len(lab.stored(PLAIN))) == (before[0] + 1, before[1] + 1)
        if fault == "agent is down":
            with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
                append(lab, ALICE)
        else:
            append(lab, ALICE)
        with without_program(lab):
            with pytest.raises(Refused):
                append(lab, PLAIN)
            with pytest.raises(LabError):
                lab.dovecot.doveadm("user", ALICE)
    finally:
        if fault == "agent is down":
            lab.start_agent()
        else:
            lab.restart_agent()
    assert first_bytes(lab, ALICE) == {b"CRYPTED"}
    with without_program(lab):  # after a failure, Dovecot connects again in the next second
        wait_until(lambda: logged_in(lab, PLAIN), "the process answers again")


def test_a_wrong_password_is_not_accepted(lab: Lab) -> None:
    """The passdb that ends the search for users who are not enrolled checks no password."""
    for user in (PLAIN, ALICE, "ghost@example.org"):
        with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
            Imap(lab.imap, user, "wrong")


def test_a_passdb_without_its_skip_accepts_nothing() -> None:
    """Also if this line was lost in a copy: another passdb must have accepted the login."""
    lab = Lab(auth="behind-passwd-file-checkpassword", plain_users={PLAIN: "password"})
    with open(lab.dovecot.config, encoding="utf-8") as stream:
        text = stream.read()
    before, block, after = text.partition("lookup-behind.conf.ext\n  mechanisms = plain login\n")
    assert block and after.startswith("  skip = unauthenticated\n")
    with open(lab.dovecot.config, "w", encoding="utf-8") as stream:
        stream.write(before + block + after.removeprefix("  skip = unauthenticated\n"))
    with lab:
        for user in (PLAIN, ALICE):
            with pytest.raises(Refused):
                Imap(lab.imap, user, "wrong")
            append(lab, user)
        assert first_bytes(lab, ALICE, "Sent") == {b"CRYPTED"}


def test_a_name_with_the_separator(lab: Lab) -> None:
    """The program is started: the fields of the question could be misread."""
    append(lab, ODD)
    assert first_bytes(lab, ODD, "Sent") == {b"From: <"}
    with without_program(lab), pytest.raises(LabError):
        lab.dovecot.doveadm("user", ODD)


def test_other_programs_are_not_answered(lab: Lab) -> None:
    """The socket has the mode of the agent's, and each uid is looked at."""
    path = lookup_socket(lab)
    assert os.stat(path).st_mode & 0o777 == 0o660
    os.chmod(path, 0o666)
    question = b"H3\t2\t0\t\tx\nLshared/passdb|s|" + ALICE.encode() + b"\n"
    answers = {}
    for uid in (12345, 0):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setresuid(uid, uid, uid)
                answer = b"nothing"
                with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(ConnectionError):
                    client.settimeout(60)
                    client.connect(path)
                    client.sendall(question)
                    answer = client.recv(100) or answer
                os.write(write, answer)
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with open(read, "rb") as stream:
            answers[uid] = stream.read()
    assert answers == {12345: b"nothing", 0: b'O{"noauthenticate": "y"}\n'}
    os.chmod(path, 0o660)


def test_it_has_no_rights_and_ends_with_the_agent(lab: Lab) -> None:
    pid = lookup_process(lab)
    assert "CapEff:\t0000000000000000" in status_of(pid)
    open_files = os.listdir(f"/proc/{pid}/fd")
    targets = [os.readlink(f"/proc/{pid}/fd/{number}") for number in open_files]
    assert not [name for name in targets if "keys" in name or name.endswith(".lock")]
    os.kill(lab.agent.pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the process ends too")
    lab.stop_agent()
    lab.start_agent()
