# SPDX-License-Identifier: MIT
"""A process of the agent's uid that checks the tags of one user's mails: see tag_checks.py.

    0    standard input: the private keys, one on each line
    1    standard output: the connection to the client

Each request is the name of a file, with its descriptor (SCM_RIGHTS).  The answer is a line as in
protocol.py: `ok`, or `bad` with the kind of the finding and a text.  No content of a mail is in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys

from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import MailsealError
from mailseal.login import hardening, protocol
from mailseal.mailbox import examine

MAX_NAME = 4096
"""Longest request in bytes."""

_PR_SET_PDEATHSIG = 1

UNREADABLE = "unreadable"


def main() -> None:
    """Serve one client until it closes the connection."""
    # The keys must not outlive the agent.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    hardening.lock_memory()
    hardening.forbid_dumps()
    with contextlib.suppress(OSError):
        os.nice(19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    keys = tuple(map(PrivateKey.parse, sys.stdin.read().split("\n")))
    with contextlib.suppress(ConnectionError), socket.socket(fileno=1) as client:
        client.setblocking(True)
        client.sendall(protocol.encode("ok", {}))
        serve(client, keys)


def serve(client: socket.socket, keys: tuple[PrivateKey, ...]) -> None:
    """Answer requests, one after the other."""
    while True:
        name, descriptors, _, _ = socket.recv_fds(client, MAX_NAME, 1)
        if not name or len(descriptors) != 1:
            return
        try:
            found = examine.check_tag(descriptors[0], os.fsdecode(name), keys)
        except (MailsealError, OSError) as exc:
            found = UNREADABLE, f"cannot be read: {exc}"
        finally:
            os.close(descriptors[0])
        if found is None:
            client.sendall(protocol.encode("ok", {}))
        else:
            kind, text = found
            client.sendall(protocol.encode("bad", {"kind": kind.encode(), "text": text.encode()}))
