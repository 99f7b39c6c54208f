# SPDX-License-Identifier: MIT
"""The second login to a mailbox of 20,000 mails: sealed, with its index in an encrypted folder,
compared with mails in clear in the same Dovecot.

In the client it measures the ENVELOPE of all mails and a search of all subjects.  It also measures
unlocking and locking: in the agent, for a login that has a session, with the folder locked and
with the folder open; and in the kernel, with a copy of this index.  Between two rounds nobody is
logged in and the folder is locked, so each round unlocks it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import time
from collections.abc import Callable

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PublicKey
from mailseal.index import fscrypt
from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from mailseal.keys.public import PublicStore
from mailseal.mailbox.maildir import create
from tests.lab import ALICE, Imap, Lab, LabError
from tests.lab.place import MAIL_UID
from tests.lab.process import wait_until
from tests.lab.volume import encrypting_volume

MAILS = 20_000
LOGINS = 10
PLAIN = "plain@example.org"
_PASSWORD = "password"
_LOCKS = 20


def run(rounds: int, say: Callable[[str], None]) -> dict[str, float]:
    """Milliseconds, medians."""
    with encrypting_volume(1 << 30) as volume:
        options = {"index.folder": f"{volume}/index", "index.lock_after": "1s"}
        with Lab(
            {ALICE: _PASSWORD},
            auth="behind-passwd-file",
            plain_users={PLAIN: _PASSWORD},
            config_extra=options,
        ) as lab:
            public = PublicStore(lab.place.path("state", "public")).lookup(ALICE)
            _fill(lab, ALICE, public)
            _fill(lab, PLAIN, None)
            say(f"listing: two mailboxes of {MAILS} mails")
            folders = Folders(f"{volume}/index", MAIL_UID)
            found: dict[str, list[float]] = {}
            for number in range(rounds + 1):
                for kind, user in (("sealed", ALICE), ("plain", PLAIN)):
                    figures = _round(lab, user)
                    if number:  # the first one builds the index
                        for name, value in figures.items():
                            found.setdefault(f"{kind}_{name}", []).append(value)
                    say(f"listing, round {number}: {kind} {figures}")
                _wait_locked(folders)
            figures = {name: statistics.median(values) for name, values in found.items()}
            return {**figures, **_logins(lab, folders), **_kernel(lab, folders)}


def _fill(lab: Lab, user: str, public: PublicKey | None) -> None:
    root = lab.maildir(user)
    os.makedirs(os.path.dirname(root), exist_ok=True)
    create(root)
    for number in range(MAILS):
        mail = (
            f"Date: Fri, 27 Nov 2026 12:00:00 +0000\nFrom: Person {number % 500} "
            f"<p{number % 500}@example.net>\nTo: {user}\nSubject: Number {number} of many\n"
            f"Message-ID: <{number}@example.net>\n\n" + "Some text.\n" * 100
        ).encode()
        virtual = len(mail) + mail.count(b"\n")
        data = dcrypt.seal(public, mail) if public is not None else mail
        path = f"{root}/cur/{number + 1}.M1P1.bench,S={len(mail)},W={virtual}:2,S"
        with open(path, "wb") as stream:
            stream.write(data)
    for where, _, names in os.walk(lab.home(user)):
        for path in (where, *(os.path.join(where, name) for name in names)):
            os.chown(path, MAIL_UID, MAIL_UID)


def _round(lab: Lab, user: str) -> dict[str, float]:
    with socket.create_connection(lab.imap, 600) as client:
        _command(client, b"a", f"LOGIN {user} {_PASSWORD}".encode())
        _command(client, b"b", b"SELECT INBOX")
        listing, answer = _command(client, b"c", b"FETCH 1:* (UID FLAGS ENVELOPE)")
        if answer.count(b"Number ") < MAILS:
            raise LabError(f"{user}: the listing is not complete")
        search, answer = _command(client, b"d", b'SEARCH SUBJECT "Number 47 of"')
        if b"* SEARCH 48\r\n" not in answer:
            raise LabError(f"{user}: the search has not found it")
        _command(client, b"e", b"LOGOUT")
    return {"listing": listing, "search": search}


def _command(client: socket.socket, tag: bytes, command: bytes) -> tuple[float, bytes]:
    """The time in milliseconds, and the answer."""
    began = time.perf_counter()
    client.sendall(tag + b" " + command + b"\r\n")
    parts: list[bytes] = []
    tail = b""
    while b"\n" + tag + b" " not in b"\n" + tail or not tail.endswith(b"\r\n"):
        part = client.recv(1 << 20)
        if not part:
            raise LabError("imap has closed the connection")
        parts.append(part)
        tail = (tail + part)[-4096:]
    if b"\n" + tag + b" OK" not in b"\n" + tail:
        raise LabError(tail.decode(errors="replace"))
    return (time.perf_counter() - began) * 1000, b"".join(parts)


def _wait_locked(folders: Folders) -> None:
    wait_until(lambda: _state(folders) is State.ABSENT, "the index is locked")


def _state(folders: Folders) -> State | None:
    found = folders.state(folder_name(ALICE))
    return found[1] if found else None


def _logins(lab: Lab, folders: Folders) -> dict[str, float]:
    """The agent's time for a login with a session: with the folder locked, and with it open.

    The client sees longer times, because Dovecot starts processes for the first login.
    """
    locked, open_already = [], []
    for _ in range(LOGINS):
        _wait_locked(folders)
        with contextlib.closing(_logged_in(lab)) as first:
            locked.append(_delay(lab))
            with contextlib.closing(_logged_in(lab)):
                open_already.append(_delay(lab))
            first.sendall(b"b LOGOUT\r\n")
    return {
        "login_locked": statistics.median(locked),
        "login_open": statistics.median(open_already),
    }


def _delay(lab: Lab) -> float:
    """Milliseconds of the last login, from the agent's log."""
    with open(lab.place.path("log", "agent.log"), encoding="utf-8") as stream:
        lines = [line for line in stream if " unlock: " in line and "session=cached" in line]
    return float(lines[-1].rpartition("delay=")[2]) * 1000


def _logged_in(lab: Lab) -> socket.socket:
    client = socket.create_connection(lab.imap, 60)
    _command(client, b"a", f"LOGIN {ALICE} {_PASSWORD}".encode())
    return client


def _kernel(lab: Lab, folders: Folders) -> dict[str, float]:
    """The time to add and remove the key of a folder with a copy of this index."""
    key, name = os.urandom(fscrypt.KEY_SIZE), "bench"
    unlocking, locking = [], []
    with Imap(lab.imap, ALICE, _PASSWORD):
        identifier = folders.unlock(name, key)
        shutil.copytree(folders.path(folder_name(ALICE)), folders.path(name), dirs_exist_ok=True)
    for _ in range(_LOCKS):
        for where, _folders, names in os.walk(folders.path(name)):
            for one in names:
                with open(os.path.join(where, one), "rb") as stream:
                    stream.read()
        folders.sync()
        began = time.perf_counter()
        if folders.lock(identifier) is not State.ABSENT:
            raise LabError("the copy of the index is in use")
        locking.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        folders.unlock(name, key)
        unlocking.append((time.perf_counter() - began) * 1000)
    folders.lock(identifier)
    return {"unlock": statistics.median(unlocking), "lock": statistics.median(locking)}
