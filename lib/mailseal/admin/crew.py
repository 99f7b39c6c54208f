# SPDX-License-Identifier: MIT
"""Runs jobs on a user's mail in several processes, as the owner of the mail.

    for message in run(owner, [job, job]):     # the messages that the jobs yield
        ...

CONTRACT
    Each job runs in its own process, which first becomes `owner` permanently, so root opens
    no file in a mailbox.  The process makes no core dump and cannot be traced.  A job returns
    its messages as JSON, so it can pass only plain data to root.
    If the caller stops early or is interrupted, no process is left.

FAILURES
    An error of a job is raised here with the same class.  If a job ends in another way,
    TemporaryError is raised.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mailseal import errors
from mailseal.daemon import drop_root, end_with
from mailseal.errors import MailsealError, TemporaryError
from mailseal.keys import record
from mailseal.login.hardening import forbid_dumps

Message = dict[str, Any]
Job = Callable[[], Iterator[Message]]
Owner = tuple[int, int]

_READ = 1 << 16
_ERROR = "error"


def run(owner: Owner | None, jobs: Sequence[Job]) -> Iterator[Message]:
    """See the module's docstring.  `owner` is uid and gid; None: the caller's own."""
    children: dict[int, int] = {}
    try:
        for job in jobs:
            pid, fd = _start(owner, job, children)
            children[fd] = pid
        yield from _messages(list(children))
        for fd in list(children):
            _end(fd, children)
    finally:
        for fd, pid in children.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(fd)


def _start(owner: Owner | None, job: Job, others: dict[int, int]) -> tuple[int, int]:
    """Start a process; returns its id and the pipe to read from."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = errors.EX_TEMPFAIL
    try:
        for fd in (reading, *others):
            os.close(fd)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if owner is not None:
            drop_root(*owner)
        forbid_dumps()
        end_with(parent, signal.SIGKILL)
        # Line by line: a program that shows the progress must not wait for a full buffer.
        with open(writing, "w", buffering=1, encoding="ascii") as stream:
            _work(job, stream.write)
        status = 0
    finally:
        os._exit(status)


def _work(job: Job, write: Callable[[str], object]) -> None:
    try:
        for message in job():
            write(f"{json.dumps(message)}\n")
    except MailsealError as exc:
        write(f"{json.dumps({_ERROR: [type(exc).__name__, str(exc), exc.hint]})}\n")


def _messages(fds: Sequence[int]) -> Iterator[Message]:
    rest = dict.fromkeys(fds, b"")
    with selectors.DefaultSelector() as ready:
        for fd in fds:
            ready.register(fd, selectors.EVENT_READ)
        while ready.get_map():
            for key, _ in ready.select():
                data = os.read(key.fd, _READ)
                if not data:
                    ready.unregister(key.fd)
                *lines, rest[key.fd] = (rest[key.fd] + data).split(b"\n")
                for line in lines:
                    message = record.parse(line)
                    if _ERROR in message:
                        raise _error(*message[_ERROR])
                    yield message


def _error(name: str, text: str, hint: str | None) -> MailsealError:
    found = getattr(errors, name, None)
    if not (isinstance(found, type) and issubclass(found, MailsealError)):
        found = TemporaryError
    return found(text, hint=hint)


def _end(fd: int, children: dict[int, int]) -> None:
    """Wait for a process that has closed its pipe."""
    pid = children.pop(fd)
    os.close(fd)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise TemporaryError("a process that was working on the mail has ended unexpectedly")
