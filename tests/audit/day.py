# SPDX-License-Identifier: MIT
"""A day on a mail server, with all actions that could leave words on its disk, and a crash.

After each step the memory is written to the disk: otherwise a temporary file that exists for a
second would leave words only on a busy machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence

from tests.audit.disk import Disk
from tests.audit.mails import letter, saved, sender
from tests.audit.words import Owner
from tests.lab import Imap, Lab, Pop3, Refused
from tests.lab.place import MAIL_UID, LabError
from tests.lab.process import wait_until
from tests.lab.smtp import send

ALICE = "alice@example.org"
"""Enrolled; mailseal stores the mail."""
SIEVE = "scripts@example.org"
"""Enrolled, with a Sieve script: Dovecot stores the mail and seals it."""
EARLIER = "earlier@example.org"
"""Has mail in clear, and is enrolled then: `mailseal seal --shred`."""
CONTROL = "control@example.org"
"""Not enrolled: must be found, which shows that the search works."""
USERS = (ALICE, SIEVE, EARLIER, CONTROL)
PASSWORD = "rhubarb-and-custard"

SCRIPT = """\
require ["fileinto", "mailbox", "envelope", "vacation", "duplicate", "imap4flags"];
if duplicate :header "Subject" { keep; stop; }
vacation :days 1 :subject "away" "I am away.";
if header :contains "List-Id" "example" { fileinto :create "Lists"; addflag "\\\\Flagged"; }
"""


class Day:
    """The actions in one lab."""

    shred: Sequence[str] = ("--shred",)

    def __init__(self, lab: Lab, disks: list[Disk], whose: Mapping[str, Owner]) -> None:
        self._lab = lab
        self._disks = disks
        self._whose = whose

    def _name(self, user: str) -> str:
        """mailseal's name of a user."""
        return user

    def _uid(self, user: str) -> int:
        """The owner of a user's mail."""
        return MAIL_UID

    def live(self) -> None:
        """Do all actions; afterwards the servers are killed."""
        for step in self._steps():
            step()
            for disk in self._disks:
                disk.sync()

    def _steps(self) -> list[Callable[[], None]]:
        return [
            self._scripts,
            self._deliver,
            lambda: self._read(ALICE),
            lambda: self._read(SIEVE),
            lambda: self._read(CONTROL),
            self._seal_earlier,
            lambda: self._read(EARLIER),
            lambda: self._pop(ALICE),
            self._arrive_while_away,
            lambda: self._read(ALICE),
            lambda: self._read_slowly(ALICE),
            self._crash,
        ]

    def _scripts(self) -> None:
        home = self._lab.home(SIEVE)
        above = os.path.dirname(home)
        if not os.path.isdir(above):
            os.makedirs(above, mode=0o700)
            os.chown(above, MAIL_UID, MAIL_UID)
        os.makedirs(home, mode=0o700, exist_ok=True)
        path = os.path.join(home, ".dovecot.sieve")
        with open(path, "w", encoding="ascii") as stream:
            stream.write(SCRIPT)
        uid = self._uid(SIEVE)
        for name in (home, path):
            os.chown(name, uid, uid)

    def _deliver(self) -> None:
        for user in USERS:
            self._send(user, 1)
            self._send(user, 2, large=True)
        self._lab.wait_delivered()

    def _arrive_while_away(self) -> None:
        for user in (ALICE, SIEVE, EARLIER):
            self._send(user, 3, large=True)
        # If Postfix has deferred a mail, it would not try again for minutes.
        for _ in range(20):
            with contextlib.suppress(LabError):
                self._lab.postfix.wait_empty(timeout=2)
                return
            self._lab.postfix.flush()
        self._lab.wait_delivered()

    def _send(self, user: str, number: int, *, large: bool = False) -> None:
        owner = self._whose[user]
        send(self._lab.smtp, sender(owner), [user], letter(owner, user, number=number, large=large))

    def _login(self, user: str) -> Imap:
        return Imap(self._lab.imap, user, PASSWORD)

    def _read(self, user: str, *, move: bool = True) -> None:
        """The actions of clients: list, search, sort, save, copy and move."""
        owner = self._whose[user]
        with self._login(user) as imap:
            folder = "Lists" if user == SIEVE else "INBOX"
            count = imap.select(folder)
            if not count:
                raise LabError(f"no mail for {user} arrived in {folder}")
            imap.command(b"FETCH 1:* (UID FLAGS ENVELOPE BODYSTRUCTURE BODY RFC822.SIZE)")
            imap.command(b"FETCH 1:* (BODY.PEEK[HEADER.FIELDS (COMMENTS X-AUDIT LIST-ID)])")
            for name in (b"PREVIEW", b"SNIPPET", b"PREVIEW (LAZY)"):
                with contextlib.suppress(Refused):  # not all versions have all of these
                    imap.command(b"FETCH 1:* (%s)" % name)
            for kind, part in ((b"SUBJECT", "subject"), (b"BODY", "body base64")):
                found = imap.command(b'SEARCH %s "%s"' % (kind, owner.word(part).encode()))
                if not any(re.match(rb"\* SEARCH \d", line) for line in found):
                    raise LabError(f"SEARCH {kind.decode()} finds no mail of {user}")
            comment = owner.word("Comments").encode()
            imap.command(b'SEARCH OR HEADER Comments "%s" TEXT "nowhere"' % comment)
            imap.command(b"SORT (SUBJECT FROM DATE) UTF-8 ALL")
            imap.command(b"THREAD REFERENCES UTF-8 ALL")
            imap.command(b"THREAD ORDEREDSUBJECT UTF-8 ALL")
            imap.command(b"FETCH 1:* (BODY.PEEK[] BODY.PEEK[1] BINARY.PEEK[7])")
            imap.append("Sent", saved(owner))
            imap.append("Sent", letter(owner, user, number=4, large=True))
            with contextlib.suppress(Refused):  # it exists from the second time on
                imap.command(b"CREATE Archive")
            imap.command(b"COPY 1:* Archive")
            if move:
                imap.command(b"MOVE %d Archive" % count)
            imap.select("Archive")
            imap.command(b"FETCH 1:* (ENVELOPE BODY.PEEK[HEADER])")
            imap.command(b"STORE 1:* +FLAGS (\\Seen)")
            self._sync()

    def _pop(self, user: str) -> None:
        with Pop3(self._lab.pop3, user, PASSWORD) as pop3:
            for number in range(1, pop3.count() + 1):
                pop3.mail(number)

    def _read_slowly(self, user: str) -> None:
        """A client that stops in the middle of a mail, which Dovecot has decrypted."""
        with socket.create_connection(self._lab.imap, 30) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(
                b"a LOGIN %s %s\r\nb SELECT Sent\r\nc FETCH 1:* (BINARY.PEEK[5] BODY.PEEK[])\r\n"
                % (user.encode(), PASSWORD.encode())
            )
            got = b""
            while b"FETCH (" not in got:
                piece = slow.recv(512)
                if not piece:
                    raise LabError(f"the client that reads slowly was disconnected: {got!r}")
                got += piece
            self._sync()

    def _seal_earlier(self) -> None:
        """Mail in clear is read and listed; then the user is enrolled, and it is sealed.

        Nothing is moved before: in 2.4 this deletes the file, which stays in free blocks.
        """
        self._read(EARLIER, move=False)
        for arguments, given in (
            (("enroll", self._name(EARLIER)), PASSWORD),
            (("seal", *self.shred, self._name(EARLIER)), ""),
        ):
            done = self._lab.mailseal(*arguments, stdin=given.encode() + b"\n")
            if done.returncode:
                raise LabError(f"mailseal {arguments[0]}: {done.stderr.decode(errors='replace')}")

    def _crash(self) -> None:
        """kill -9 of all processes, while clients are active and mail arrives."""
        lab = self._lab
        imap = self._login(ALICE)
        imap.select("Archive")
        imap.command(b"FETCH 1:* (ENVELOPE BODYSTRUCTURE)")
        imap.body(1)
        lab.delivery.stop()
        self._send(ALICE, 5, large=True)
        wait_until(
            lambda: "status=deferred" in lab.postfix.log_text(), "the mail waits in the queue"
        )
        lab.start_delivery()
        sending = threading.Thread(target=self._send_until_dead)
        sending.start()
        imap.append("Sent", letter(self._whose[ALICE], ALICE, number=6, large=True))
        self._sync()
        lab.kill()
        sending.join()

    def _send_until_dead(self) -> None:
        with contextlib.suppress(Exception):
            for _ in range(200):
                self._send(ALICE, 7)

    def _sync(self) -> None:
        for disk in self._disks:
            disk.sync()
