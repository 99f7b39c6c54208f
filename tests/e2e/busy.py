# SPDX-License-Identifier: MIT
"""IMAP clients that keep a mailbox busy, and remember what must be in it.

box = Mailbox(lab, user, folders)      # reads all that is there
with box.busy(clients=3): ...          # flags, copies, moves, expunges, appends throughout
box.require_as_remembered()            # UIDs, flags, dates, bytes: nothing else, nothing less

Every mail belongs to one client, so that the order of commands on it is known.  A server answers OK
to a STORE or an EXPUNGE of UIDs that it does not have: so each answer must show the change.  Only
if Dovecot has replaced dovecot.index.log meanwhile (over 1 MB of it), the FETCH can be missing
("Missing middle file" in its log), and the client looks at the flags.

The clients have all their sessions open at the same time, but only one of them sends a command at
a time.  If several sessions change one Maildir folder at the same moment, Dovecot 2.3.19 sometimes
restores the flags from before, also while nothing is converted: once in 27,000 commands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import threading
from collections.abc import Iterator, Sequence

from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab

_ITEM = re.compile(
    rb"\* \d+ FETCH \(UID (\d+) FLAGS \(([^)]*)\) INTERNALDATE \"([^\"]*)\" "
    rb"RFC822\.SIZE (\d+) BODY\[\] (?:\{(\d+)\}\r\n|(\"\"|NIL))"
)

_FLAGS = (b"\\Seen", b"\\Flagged", b"\\Answered", b"Work", b"$Later")


@dataclasses.dataclass(frozen=True)
class Mail:
    """What a client sees of a mail."""

    flags: frozenset[bytes]
    date: bytes
    body: bytes


State = dict[int, Mail]


def fetch_all(imap: Imap, folder: str) -> tuple[bytes, State]:
    """UIDVALIDITY, and every mail by UID."""
    found: State = {}
    validity = b""
    for line in imap.command(b'EXAMINE "%s"' % folder.encode()):
        if match := re.search(rb"\[UIDVALIDITY (\d+)\]", line):
            validity = match[1]
    items = b"UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[]"
    for line in imap.command(b"UID FETCH 1:* (%s)" % items):
        if match := _ITEM.match(line):
            body = line[match.end() : match.end() + int(match[5] or 0)]
            assert len(body) == int(match[4]), "RFC822.SIZE is not the size of the mail"
            flags = frozenset(match[2].split()) - {b"\\Recent"}
            found[int(match[1])] = Mail(flags, match[3], body)
        else:
            assert b"BODY[]" not in line, line
    assert list(found) == sorted(found), folder
    return validity, found


def _has(answer: Sequence[bytes], uid: int, flags: frozenset[bytes]) -> bool:
    found = [re.match(rb"\* \d+ FETCH \(UID (\d+) FLAGS \(([^)]*)\)", line) for line in answer]
    shown = [set(match[2].split()) for match in found if match and int(match[1]) == uid]
    return bool(shown) and shown[-1] - {b"\\Recent"} == flags


def _shows_expunge(answer: Sequence[bytes]) -> bool:
    return any(re.match(rb"\* \d+ EXPUNGE", line) for line in answer)


class Mailbox:
    """What clients know of one user's mailbox."""

    def __init__(self, lab: Lab, user: str, password: str, folders: Sequence[str]) -> None:
        self._where = (lab.imap, user, password)
        self.folders = tuple(folders)
        self.state: dict[str, tuple[bytes, State]] = {}
        self.operations = 0
        self.read()

    def login(self) -> Imap:
        return Imap(*self._where)

    def read(self) -> None:
        """Take what is there for what must be there."""
        with self.login() as imap:
            self.state = {folder: fetch_all(imap, folder) for folder in self.folders}

    def mails(self) -> int:
        return sum(len(mails) for _, mails in self.state.values())

    def require_as_remembered(self, arrived: Sequence[bytes] = ()) -> None:
        """`arrived`: ends of mails that were delivered to INBOX meanwhile, one each."""
        with self.login() as imap:
            for folder in self.folders:
                validity, mails = fetch_all(imap, folder)
                wanted_validity, wanted = self.state[folder]
                assert validity == wanted_validity, folder
                new = set(mails) - set(wanted) if folder == "INBOX" else set()
                extra, missing = set(mails) - new - set(wanted), set(wanted) - set(mails)
                assert not extra and not missing, (folder, extra, missing)
                for uid, mail in wanted.items():
                    found = mails[uid]
                    assert found.flags == mail.flags, (folder, uid, found.flags, mail.flags)
                    assert found.date == mail.date, (folder, uid, found.date, mail.date)
                    assert found.body == mail.body, (folder, uid)
                if folder == "INBOX":
                    ends = sorted(
                        end for uid in new for end in arrived if mails[uid].body.endswith(end)
                    )
                    assert ends == sorted(arrived)

    @contextlib.contextmanager
    def busy(self, *, clients: int = 3) -> Iterator[None]:
        """Each client works on mails of its own, in all folders, until the block ends."""
        stop = threading.Event()
        failed: list[BaseException] = []
        turn = threading.Lock()

        def work(client: _Client) -> None:
            try:
                client.work(stop)
            except BaseException as exc:
                failed.append(exc)

        # Before the first of them begins: a client made later would take new mails of the others
        # for its own.
        made = [_Client(self, number, clients, turn) for number in range(clients)]
        threads = [threading.Thread(target=work, args=(client,)) for client in made]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if failed:
            raise failed[0]
        for folder in self.folders:
            owned = sorted(uid for client in made for uid in client.own[folder])
            assert owned == sorted(set(owned)), f"two clients have had one mail: {folder}, {owned}"


class _Client:
    def __init__(self, box: Mailbox, number: int, clients: int, turn: threading.Lock) -> None:
        self._box = box
        self._number = number
        self._chance = random.Random(number)
        self._turn = turn
        self.own = {
            folder: [uid for uid in mails if uid % clients == number]
            for folder, (_, mails) in box.state.items()
        }

    def work(self, stop: threading.Event) -> None:
        kinds = (self._flag, self._flag, self._copy, self._move, self._expunge, self._append)
        with self._box.login() as imap:
            while not stop.is_set():
                folder = self._chance.choice(self._box.folders)
                with self._turn:
                    imap.select(folder)
                for _ in range(5):
                    with self._turn:
                        self._chance.choice(kinds)(imap, folder)
                    self._box.operations += 1

    def _store(self, imap: Imap, uid: int, flags: bytes, wanted: frozenset[bytes]) -> None:
        answer = imap.command(b"UID STORE %d %s" % (uid, flags))
        if not _has(answer, uid, wanted):
            answer += imap.command(b"UID FETCH %d (FLAGS)" % uid)
            assert _has(answer, uid, wanted), (uid, flags, answer)

    def _pick(self, folder: str) -> int | None:
        return self._chance.choice(self.own[folder]) if self.own[folder] else None

    def _flag(self, imap: Imap, folder: str) -> None:
        if (uid := self._pick(folder)) is None:
            return
        mails = self._box.state[folder][1]
        flags = before = mails[uid].flags
        while flags == before:
            flags = frozenset(self._chance.sample(_FLAGS, 2))
        self._store(imap, uid, b"FLAGS (%s)" % b" ".join(sorted(flags)), flags)
        mails[uid] = dataclasses.replace(mails[uid], flags=flags)

    def _copy(self, imap: Imap, folder: str) -> None:
        self._carry(imap, folder, b"COPY")

    def _move(self, imap: Imap, folder: str) -> None:
        self._carry(imap, folder, b"MOVE")

    def _carry(self, imap: Imap, folder: str, how: bytes) -> None:
        target = self._chance.choice(self._box.folders)
        if (uid := self._pick(folder)) is None or target == folder:
            return
        answer = imap.command(b'UID %s %d "%s"' % (how, uid, target.encode()))
        match = re.search(rb"\[COPYUID \d+ \d+ (\d+)\]", b"\n".join(answer))
        assert match is not None, answer
        mails = self._box.state[folder][1]
        self._arrived(target, int(match[1]), mails[uid])
        if how == b"MOVE":
            assert _shows_expunge(answer), answer
            del mails[uid]
            self.own[folder].remove(uid)

    def _arrived(self, folder: str, uid: int, mail: Mail) -> None:
        self._box.state[folder][1][uid] = mail
        self.own[folder].append(uid)

    def _expunge(self, imap: Imap, folder: str) -> None:
        if len(self.own[folder]) < 3 or (uid := self._pick(folder)) is None:
            return
        flags = self._box.state[folder][1][uid].flags | {b"\\Deleted"}
        self._store(imap, uid, b"+FLAGS (\\Deleted)", flags)
        answer = imap.command(b"UID EXPUNGE %d" % uid)
        assert _shows_expunge(answer), answer
        del self._box.state[folder][1][uid]
        self.own[folder].remove(uid)

    def _append(self, imap: Imap, folder: str) -> None:
        mail = HEADERS + b"appended by %d, %d\r\n" % (self._number, self._chance.getrandbits(60))
        date = b"0%d-Jan-2020 10:00:00 +0000" % self._chance.randrange(1, 10)
        answer = imap.command(
            b'APPEND "%s" (\\Seen) "%s" {%d}' % (folder.encode(), date, len(mail)), mail
        )
        match = re.search(rb"\[APPENDUID \d+ (\d+)\]", b"\n".join(answer))
        assert match is not None, answer
        self._arrived(folder, int(match[1]), Mail(frozenset((b"\\Seen",)), date, mail))
