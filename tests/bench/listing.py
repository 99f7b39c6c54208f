# SPDX-License-Identifier: MIT
"""The second login to a mailbox of 20,000 mails: sealed, with its index in an encrypted folder,
compared with mails in clear in the same Dovecot, with the same plugins.

In the client it measures the ENVELOPE of all mails, a search of all subjects, a full-text search
of all bodies (if its package is installed), and two ways to open one mail: a FETCH in an open
session, and all that a webmail does for a view, from connecting to the answer.  Mails are
opened in two sizes.  Measured too: the memory that the index of a user without connections takes;
unlocking and locking: in the agent, for a login that has a session, with the folder locked and
with the folder open; and in the kernel, with a copy of this index.  Between two rounds nobody is
logged in and the folder is locked, so each round unlocks it.

Locking drops the index of the sealed mailbox from the kernel's memory, and nothing drops that of
the mailbox in clear.  So the first full-text search in clear is also measured after its index was
dropped ("cold"), as on a server whose memory is used for other work.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PublicKey
from mailseal.index import fscrypt, memory
from mailseal.index.folders import Folders, folder_name
from mailseal.index.fscrypt import State
from mailseal.keys.public import PublicStore
from mailseal.mailbox.maildir import create
from tests.lab import ALICE, Imap, Lab, LabError, full_text
from tests.lab.dovecot import installed_version
from tests.lab.place import MAIL_UID
from tests.lab.process import wait_until
from tests.lab.volume import encrypting_volume

MAILS = 20_000
LOGINS = 10
LARGE = 50_000
"""Bytes of each hundredth mail; the others have 1.2 KB."""

VIEWS = 20
GOALS = {
    "listing": ("ENVELOPE of all mails", 1.2),
    "search": ("search of all subjects", 1.2),
    "first_full_text": ("full-text search, first of a session", 1.5),
    "cold_full_text": ("the same, the index in clear is cold", 0),
    "full_text": ("full-text search", 1.5),
    "open_small": ("opening a mail of 1.2 KB, with login", 1.5),
    "open_large": ("opening a mail of 50 KB, with login", 1.5),
    "fetch_small": ("FETCH of a mail of 1.2 KB alone", 0),
    "fetch_large": ("FETCH of a mail of 50 KB alone", 0),
}
"""Name, description, and the wanted ratio; 0: none."""

PLAIN = "plain@example.org"
_PASSWORD = "password"
_LOCKS = 20


def run(rounds: int, say: Callable[[str], None]) -> dict[str, float]:
    """Milliseconds, medians."""
    figures: dict[str, float] = {}
    with _lab(say, searches=False) as (lab, folders):
        figures |= _rounds(lab, folders, rounds, _list_and_open, say)
        figures["idle_memory"] = float(_in_memory(lab))
        figures |= {**_logins(lab, folders), **_kernel(lab, folders)}
    if package := full_text.missing(installed_version()):
        say(f"listing: no full-text search, {package} is not installed")
        return figures
    # In a lab of its own, because with it Dovecot searches all headers in the full-text index.
    with _lab(say, searches=True) as (lab, folders):
        return figures | _rounds(lab, folders, rounds, _search_full_text, say)


@contextlib.contextmanager
def _lab(say: Callable[[str], None], *, searches: bool) -> Iterator[tuple[Lab, Folders]]:
    with encrypting_volume(2 << 30) as volume:
        lab = Lab({ALICE: _PASSWORD}, auth="behind-passwd-file", plain_users={PLAIN: _PASSWORD})
        options = {"index.folder": f"{volume}/index", "index.lock_after": "1s"}
        if searches:
            options |= full_text.options(lab.dovecot)
            lab.dovecot.write_config(full_text.configuration(lab.dovecot))
        lab.write_config(options)
        with lab:
            public = PublicStore(lab.place.path("state", "public")).lookup(ALICE)
            _fill(lab, ALICE, public)
            _fill(lab, PLAIN, None)
            say(f"listing: two mailboxes of {MAILS} mails")
            yield lab, Folders(f"{volume}/index", MAIL_UID)


def _rounds(
    lab: Lab,
    folders: Folders,
    rounds: int,
    measure: Callable[[Lab, str], dict[str, float]],
    say: Callable[[str], None],
) -> dict[str, float]:
    """Medians; the first round, which builds the indexes, is not counted."""
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for kind, user in (("sealed", ALICE), ("plain", PLAIN)):
            figures = measure(lab, user)
            for name, value in figures.items() if number else ():
                found.setdefault(f"{kind}_{name}", []).append(value)
            shown = {name: round(value, 2) for name, value in figures.items()}
            say(f"listing, round {number}: {kind} {shown}")
        _wait_locked(folders)
    return {name: statistics.median(values) for name, values in found.items()}


def _fill(lab: Lab, user: str, public: PublicKey | None) -> None:
    root = lab.maildir(user)
    os.makedirs(os.path.dirname(root), exist_ok=True)
    create(root)
    for number in range(MAILS):
        mail = (
            f"Date: Fri, 27 Nov 2026 12:00:00 +0000\nFrom: Person {number % 500} "
            f"<p{number % 500}@example.net>\nTo: {user}\nSubject: Number {number} of many\n"
            f"Message-ID: <{number}@example.net>\n\nThis is {_word(number)}.\n"
        ).encode()
        size = LARGE if number % 100 == 0 else 1_200
        mail += b"Some more text.\n" * (size // 16)
        virtual = len(mail) + mail.count(b"\n")
        data = dcrypt.seal(public, mail) if public is not None else mail
        path = f"{root}/cur/{number + 1}.M1P1.bench,S={len(mail)},W={virtual}:2,S"
        with open(path, "wb") as stream:
            stream.write(data)
    for where, _, names in os.walk(lab.home(user)):
        for path in (where, *(os.path.join(where, name) for name in names)):
            os.chown(path, MAIL_UID, MAIL_UID)


def _word(number: int) -> str:
    return f"word{number:05}x"


def _list_and_open(lab: Lab, user: str) -> dict[str, float]:
    with _selected(lab, user) as client:
        listing, answer = _command(client, b"c", b"FETCH 1:* (UID FLAGS ENVELOPE)")
        if answer.count(b"Number ") < MAILS:
            raise LabError(f"{user}: the listing is not complete")
        figures = {"listing": listing, "search": _search(client, b'SUBJECT "Number 47 of"')}
        for name, first in (("small", 2), ("large", 1)):
            times = [_fetch(client, first + 100 * n) for n in range(_views())]
            figures[f"fetch_{name}"] = statistics.median(times)
    for name, first in (("small", 3), ("large", 1)):
        times = [_view(lab, user, first + 100 * n) for n in range(_views())]
        figures[f"open_{name}"] = statistics.median(times)
    return figures


def _search_full_text(lab: Lab, user: str) -> dict[str, float]:
    """The first search in a session opens the index; both it and later ones are measured."""
    query = f'BODY "{_word(47)}"'.encode()
    with _selected(lab, user) as client:
        first = _search_when_indexed(client, query)
        later = statistics.median(_search(client, query) for _ in range(VIEWS))
    figures = {"first_full_text": first, "cold_full_text": first, "full_text": later}
    if user == PLAIN:
        _drop_indexes(lab.maildir(user))
        with _selected(lab, user) as client:
            figures["cold_full_text"] = _search(client, query)
    return figures


def _drop_indexes(folder: str) -> None:
    """Remove Dovecot's indexes below this folder from the kernel's memory, but not the mails."""
    for where, folders, names in os.walk(folder):
        if "cur" in folders:
            folders.remove("cur")
        for name in names:
            fd = os.open(os.path.join(where, name), os.O_RDONLY)
            try:
                os.fsync(fd)  # what is not written yet would stay
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


@contextlib.contextmanager
def _selected(lab: Lab, user: str) -> Iterator[socket.socket]:
    with socket.create_connection(lab.imap, 3600) as client:
        _command(client, b"a", f"LOGIN {user} {_PASSWORD}".encode())
        _command(client, b"b", b"SELECT INBOX")
        yield client
        _command(client, b"e", b"LOGOUT")


def _views() -> int:
    return max(1, min(VIEWS, MAILS // 100))


def _search(client: socket.socket, query: bytes) -> float:
    taken, answer = _command(client, b"d", b"SEARCH " + query)
    if b"* SEARCH 48\r\n" not in answer:
        raise LabError(f"SEARCH {query.decode()} has not found the mail: {answer[:200]!r}")
    return taken


def _search_when_indexed(client: socket.socket, query: bytes) -> float:
    """Dovecot 2.4 answers NO if indexing takes longer than 30 seconds."""
    while True:
        try:
            return _search(client, query)
        except LabError as exc:
            if "[INUSE]" not in str(exc):
                raise


def _fetch(client: socket.socket, number: int) -> float:
    taken, answer = _command(client, b"f", b"FETCH %d (BODY.PEEK[])" % number)
    if _word(number - 1).encode() not in answer:
        raise LabError(f"mail {number} is not complete")
    return taken


def _view(lab: Lab, user: str, number: int) -> float:
    """One view of a webmail: connect, login, SELECT, FETCH."""
    began = time.perf_counter()
    with _selected(lab, user) as client:
        _fetch(client, number)
        return (time.perf_counter() - began) * 1000


def _in_memory(lab: Lab) -> int:
    """Bytes on tmpfs of the enrolled user's index, while nobody has a connection."""
    used = memory.measure(lab.place.quick_path("cache"))
    return sum(one.size for one in used if one.name == ALICE)


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
