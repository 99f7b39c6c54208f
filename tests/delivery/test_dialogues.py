# SPDX-License-Identifier: MIT
"""Dialogues with the running daemon, one text file each.

# comment                      the first line says what the dialogue tests
> text                         sent, with CR LF
>> text                        sent unchanged, with Python's escapes and without CR LF
*N text                        sent N times, as with >>
< text                         the next received line must be this; * matches anything
<eof                           the server closes the connection
close                          the client closes the connection
wait seconds
drip                           a letter every 0.8 s, until the server says something
delivered N                    number of mails in all Maildirs (default at the end: 0)
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import select
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.delivery.daemon import Client, Daemon

FILES = sorted(glob.glob(os.path.join(os.path.dirname(__file__), "dialogues", "*.txt")))


IDLE = ("idle", "slow-drip")


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """The parameter: its timeout.  Only dialogues about silence have a short one."""
    settings = {
        "idle_timeout": request.param,
        "message_limit": "64K",
        "in_flight_limit": "4M",
        "recipient_limit": 3,
        "connection_limit": 4,
        "workers": 1,
        "not_enrolled": "reject",
    }
    with Daemon({"delivery": settings}) as running:
        running.enroll("alice@example.org")
        running.enroll("böb@example.org")
        running.add_user("plain@example.org")
        yield running


def _bytes(text: str) -> bytes:
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1")


def _send(client: Client, data: bytes) -> None:
    """The server may disconnect the client meanwhile; its last reply is checked next."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send(data)


def _drip(client: Client, where: str) -> None:
    for _ in range(60):
        _send(client, b"a")
        if select.select([client.socket], [], [], 0.8)[0]:
            return
    pytest.fail(f"{where}: the server waits for more")


def _cases() -> Iterator[Any]:
    for path in FILES:
        name = os.path.basename(path)[:-4]
        yield pytest.param("2s" if name.startswith(IDLE) else "60s", path, id=name)


@pytest.mark.parametrize(("daemon", "path"), list(_cases()), indirect=["daemon"])
def test_dialogue(daemon: Daemon, path: str) -> None:
    for old in daemon.everything_delivered():
        os.unlink(old)
    client = daemon.connect()
    expected = 0
    with open(path, encoding="utf-8") as stream:
        lines = stream.read().splitlines()
    for number, line in enumerate(lines, 1):
        word, _, rest = line.partition(" ")
        where = f"{os.path.basename(path)}:{number}"
        if word == ">":
            client.send(rest.encode() + b"\r\n")
        elif word == ">>":
            _send(client, _bytes(rest))
        elif word.startswith("*"):
            _send(client, _bytes(rest) * int(word[1:]))
        elif word == "<":
            got = client.line()
            assert fnmatch.fnmatchcase(got, rest.replace("[", "[[]")), f"{where}: got {got!r}"
        elif word == "<eof":
            try:
                got = client.line()
            except ConnectionResetError:
                got = ""
            assert got == "", f"{where}: got {got!r}"
        elif word == "close":
            client.close()
        elif word == "drip":
            _drip(client, where)
        elif word == "wait":
            time.sleep(float(rest))
        elif word == "delivered":
            expected = int(rest)
        else:
            assert word in ("", "#"), f"{where}: unknown word {word!r}"
    time.sleep(0.05)
    assert len(daemon.everything_delivered()) == expected
    client.close()
