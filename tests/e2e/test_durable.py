# SPDX-License-Identifier: MIT
"""Nothing is lost: workers killed under load from Postfix, and a disk that fills up."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.place import MAIL_UID
from tests.lab.process import children, wait_until
from tests.lab.smtp import send

SENDER = "eve@example.net"
# Complete mails, so that Postfix adds nothing.
HEADERS = (
    b"From: eve@example.net\r\nTo: alice@example.org\r\nSubject: x\r\n"
    b"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-Id: <1@example.net>\r\n\r\n"
)
COUNT = 300


def _mail(number: int) -> bytes:
    chance = random.Random(number)
    lines = [b"%032x" % chance.getrandbits(128) for _ in range(chance.randrange(1, 400))]
    return HEADERS + b"number %d\r\n" % number + b"\r\n".join(lines) + b"\r\n"


def test_kill_9_under_load_loses_nothing(lab: Lab, user: str) -> None:
    def feed(numbers: range) -> None:
        for number in numbers:
            send(lab.smtp, SENDER, [user], _mail(number))

    feeders = [threading.Thread(target=feed, args=(range(n, COUNT, 3),)) for n in range(3)]
    for feeder in feeders:
        feeder.start()
    kills = 0
    deadline = time.monotonic() + 600
    while any(feeder.is_alive() for feeder in feeders) or (lab.postfix_queue() and kills < 25):
        assert time.monotonic() < deadline
        time.sleep(random.uniform(0.05, 0.25))
        if victims := children(lab.delivery.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(victims), signal.SIGKILL)
                kills += 1
    lab.wait_delivered(timeout=600)
    assert kills >= 5
    got: dict[int, list[bytes]] = collections.defaultdict(list)
    for body in lab.inbox(user):
        match = re.search(rb"^number (\d+)\r$", body, re.M)
        assert match is not None
        got[int(match[1])].append(body)
    assert sorted(got) == list(range(COUNT))
    log = lab.postfix.log_text()
    for number, bodies in got.items():
        for body in bodies:
            assert body.endswith(_mail(number)), number
        if len(bodies) > 1:
            # Twice only if Postfix did not get the reply.
            queue_ids = {re.findall(rb"ESMTP id (\w+)", body)[0].decode() for body in bodies}
            assert len(queue_ids) == 1
            lost = rf"{queue_ids.pop()}: to=.*status=deferred \(lost connection"
            assert re.search(lost, log), number
    names = [os.path.basename(path) for path in lab.stored(user)]
    assert len(names) == len(set(names)) == sum(map(len, got.values()))


@contextlib.contextmanager
def small_disk(folder: str) -> Iterator[None]:
    """A file system of 1 MB at `folder`."""
    options = f"size=1m,mode=0700,uid={MAIL_UID},gid={MAIL_UID}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_defers_until_there_is_space(lab: Lab, user: str) -> None:
    os.makedirs(lab.home(user), exist_ok=True)
    os.chown(lab.home(user), MAIL_UID, MAIL_UID)
    with small_disk(lab.home(user)):
        filler = os.path.join(lab.home(user), "filler")
        with open(filler, "wb") as stream:
            stream.write(bytes(800 << 10))
        mail = _mail(1) + b"x" * 70 + b"\r\n" + (b"0123456789" * 7 + b"\r\n") * 5000
        send(lab.smtp, SENDER, [user], mail)
        refused = rf"to=<{user}>.*dsn=4.3.1, status=deferred .*452 4.3.1 .* insufficient storage"
        wait_until(lambda: re.search(refused, lab.postfix.log_text()), "it is deferred")
        assert len(lab.postfix_queue()) == 1
        assert lab.stored(user) == []
        assert os.listdir(os.path.join(lab.maildir(user), "tmp")) == []
        os.unlink(filler)
        lab.postfix.flush()
        lab.wait_delivered()
        assert [body.endswith(mail) for body in lab.inbox(user)] == [True]
