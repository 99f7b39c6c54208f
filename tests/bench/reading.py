# SPDX-License-Identifier: MIT
"""BODY[] of 1,000 mails with Dovecot's imap: sealed by mailseal, and by mail_crypt itself.

The same Dovecot reads both stores with the same key; each mail has 4 KB.
Only the files are different: 1 PBKDF2 round or 2,048.  First, all mails are checked to be
sealed: without mail_crypt it would be fast.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import time
from collections.abc import Callable

from mailseal.crypto.dcrypt import is_sealed
from tests.bench.delivery import send, settle
from tests.bench.peers import PASSWORD, USER, DovecotPeer, MailsealPeer, Peer
from tests.lab.place import LabError

COUNT = 1000
SIZE = 4096


def run(
    crypt: DovecotPeer,
    seal: MailsealPeer,
    reader: DovecotPeer,
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, object]:
    """Seconds to read all mails of each server: {peer: {median, rounds}}."""
    for peer in (crypt, seal):
        peer.empty()
        send(peer.lmtp, SIZE, COUNT)
        expect_sealed(peer)
    settle()
    seconds: dict[str, list[float]] = {crypt.name: [], seal.name: []}
    for number in range(rounds + 1):
        for name, imap in ((crypt.name, crypt.imap), (seal.name, reader.imap)):
            took = read_all(imap)
            if number:  # the first round makes the index and is not counted
                seconds[name].append(took)
                say(f"reading, round {number}: written by {name} {took:.2f} s")
    return {
        name: {"median": statistics.median(found), "rounds": [round(s, 3) for s in found]}
        for name, found in seconds.items()
    }


def expect_sealed(peer: Peer) -> None:
    """Raises LabError if a mail in new/ is in clear."""
    new = os.path.join(peer.maildir, "new")
    for name in os.listdir(new):
        with open(os.path.join(new, name), "rb") as stream:
            if not is_sealed(stream.read(16)):
                raise LabError(f"{peer.name} has stored a mail that is not sealed")


def read_all(address: tuple[str, int]) -> float:
    """Log in and fetch all mails; returns the seconds of the FETCH."""
    with socket.create_connection(address, 60) as sock:
        stream = sock.makefile("rb")

        def until(tag: bytes) -> bytes:
            last = b""
            while not last.startswith(tag):
                last = stream.readline()
                if not last:
                    raise LabError("imap closed the connection")
                if literal := re.search(rb"\{(\d+)\}\r\n$", last):
                    stream.read(int(literal[1]))
            return last

        until(b"* OK")
        sock.sendall(f"a LOGIN {USER} {PASSWORD}\r\n".encode())
        until(b"a OK")
        sock.sendall(b"b SELECT INBOX\r\n")
        until(b"b OK")
        start = time.monotonic()
        sock.sendall(b"c FETCH 1:* (UID BODY.PEEK[])\r\n")
        if not until(b"c ").startswith(b"c OK"):
            raise LabError("imap could not give all mails")
        return time.monotonic() - start
