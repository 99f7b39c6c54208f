# SPDX-License-Identifier: MIT
"""mailseal.lua with invalid or missing answers of the agent, and with Dovecot's auth cache."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from tests.lab import ALICE, BOB, Imap, Lab, LabError, Refused
from tests.lab.dovecot import installed_version, series
from tests.lab.process import logged
from tests.listener import serve, unix_listener

SERIES = series(installed_version())
LUA = "mailseal-only"
DOORS = {
    "2.3": (
        "mailseal-only",
        "mailseal-only-checkpassword",
        "behind-passwd-file",
        "behind-passwd-file-checkpassword",
    ),
    "2.4": ("mailseal-only", "behind-passwd-file"),
}[SERIES]
PASSWORD = "quite-a-good-password"
SECRET = "keep this out of the log"
HEX = SECRET.encode().hex().encode()
NONSENSE = [
    b"",
    b"ok secret=" + HEX,  # no end of the line
    b"ok secret=" + HEX + b"z\n",
    b"ok secret=" + HEX + b"a\n",  # half a byte
    b"ok  secret=" + HEX + b"\n",
    b"ok secret=" + HEX + b" \n",
    b"ok secret=" + HEX + b" secret=" + HEX + b"\n",
    b"ok secret=" + HEX.upper() + b"\n",
    b"ok secret=" + HEX + b"\0\n",
    b"OK secret=" + HEX + b"\n",
    b"perhaps secret=" + HEX + b"\n",
    b"denied secret=" + HEX + b"\n",
    b"temporary secret=" + HEX + b"\n",
    b"error message=" + HEX + b"\n",
]


class StandIn:
    """Listens on the agent's socket, and sends the same answer to each request."""

    def __init__(self, path: str) -> None:
        self.answer: bytes | None = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = unix_listener(path)
        os.chmod(path, 0o666)
        serve(self._socket, self._client)

    def _client(self, client: socket.socket) -> None:
        with client.makefile("rb") as stream:
            stream.readline()
            if self.answer is None:
                stream.read()  # until the client closes the connection
            else:
                client.sendall(self.answer)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def lua_lab() -> Iterator[Lab]:
    """In this copy of the script, the timeout is one second, not thirty."""
    lab = Lab({ALICE: PASSWORD}, auth=LUA, dovecot_extra="auth_username_chars =\n")
    edit(lab, "local timeout = 30", "local timeout = 1")
    with lab:
        lab.stop_agent()
        yield lab


@pytest.fixture
def stand_in(lua_lab: Lab) -> Iterator[StandIn]:
    made = StandIn(lua_lab.agent_socket)
    yield made
    made.close()


def edit(lab: Lab, old: str, new: str) -> None:
    """Change the lab's copy of mailseal.lua."""
    path = lab.place.path("code", "dovecot-conf", "2.4", "mailseal.lua")
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    assert text.count(old) == 1
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text.replace(old, new))


def assert_temporary_and_nothing_told(lab: Lab) -> None:
    with pytest.raises(Refused, match=r"\[UNAVAILABLE\]"):
        Imap(lab.imap, ALICE, PASSWORD)
    log = lab.log_text()
    for secret in (SECRET, PASSWORD):
        assert secret not in log
        assert secret.encode().hex() not in log.lower()


@pytest.mark.parametrize("answer", NONSENSE)
def test_invalid_answers_are_a_temporary_failure(
    lua_lab: Lab, stand_in: StandIn, answer: bytes
) -> None:
    stand_in.answer = answer
    assert_temporary_and_nothing_told(lua_lab)


def test_no_answer_is_a_temporary_failure(lua_lab: Lab, stand_in: StandIn) -> None:
    stand_in.answer = None
    assert_temporary_and_nothing_told(lua_lab)


def test_an_error_in_the_script_reveals_nothing(lua_lab: Lab) -> None:
    """Lua's own error message would contain the value."""
    good = "  if only then return verify_alone(request, password) end"
    bad = f"  error(password)\n{good}"
    edit(lua_lab, good, bad)
    try:
        lua_lab.dovecot.restart()
        assert_temporary_and_nothing_told(lua_lab)
        logged(lua_lab, "mailseal.lua: internal error")
    finally:
        edit(lua_lab, bad, good)
        lua_lab.dovecot.restart()


@pytest.mark.parametrize("auth", DOORS)
def test_auth_cache_keeps_no_answer(auth: str) -> None:
    """Each login asks the agent, and so does each lookup."""
    cache = "auth_cache_size = 10 M\nauth_cache_ttl = 1 hour\nauth_cache_negative_ttl = 1 hour\n"
    behind = auth.startswith("behind")
    plain = {BOB: "password"} if behind else {}
    with Lab({ALICE: "password"}, auth=auth, plain_users=plain, dovecot_extra=cache) as lab:
        for number in range(1, 4):
            with lab.login(ALICE):
                assert lab.log_text().count(f"unlock: user=<{ALICE}>") == number
        lab.mailseal("passwd", "--stdin", ALICE, stdin=b"password\nchanged\n")
        if behind:
            lab.dovecot.write_users({ALICE: "changed", BOB: "password"})
        with pytest.raises(Refused, match="AUTHENTICATIONFAILED"):
            Imap(lab.imap, ALICE, "password")
        with Imap(lab.imap, ALICE, "changed"):
            pass
        with contextlib.nullcontext() if behind else pytest.raises(LabError):
            assert b"crypt_global_public_key" not in lab.dovecot.doveadm("user", BOB)
        lab.add_user(BOB, "password")
        assert b"crypt_global_public_key" in lab.dovecot.doveadm("user", BOB)
