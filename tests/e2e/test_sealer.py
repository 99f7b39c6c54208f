# SPDX-License-Identifier: MIT
"""mailseal-sealer: existing mail is sealed automatically after the enrollment."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mailseal import config as configuration
from mailseal.admin.seal_jobs import Jobs
from mailseal.crypto import dcrypt
from tests.e2e.busy import Mailbox
from tests.e2e.mails import HEADERS, of_size
from tests.lab import Imap, Lab
from tests.lab.place import MAIL_UID
from tests.lab.process import Server, wait_until

SECRET = "password"
USER, OTHER, NEVER = "sam@example.org", "sue@example.org", "never@example.org"


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Sealing is slow, so that there is time to check and to kill it."""
    options = {"seal.existing": "at-enrollment", "seal.limit_rate": "60K"}
    plain = dict.fromkeys((USER, OTHER, NEVER), SECRET)
    with Lab({}, auth="behind-passwd-file", plain_users=plain, config_extra=options) as made:
        yield made


def fill(lab: Lab, user: str, count: int) -> None:
    with Imap(lab.imap, user, SECRET) as imap:
        for number in range(count):
            imap.append("INBOX", HEADERS + b"%d\r\n" % number + of_size(2000, newline=b"\r\n"))


def sealed(lab: Lab, user: str) -> list[bool]:
    found = []
    for path in lab.stored(user):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
            found.append(dcrypt.is_sealed(stream.read(16)))
    return found


def state(lab: Lab, user: str) -> dict[str, Any]:
    done = lab.mailseal("status", user, "--json")
    (entry,) = json.loads(done.stdout)["users"]
    found: dict[str, Any] = entry.get("existing", {})
    return found


def wait(what: Callable[[], object]) -> None:
    wait_until(what, "mailseal-sealer has done it", timeout=400)


def enroll(lab: Lab, user: str) -> None:
    done = lab.mailseal("enroll", user, stdin=SECRET.encode() + b"\n")
    assert done.returncode == 0, done.stderr


def test_it_continues_after_kill_9_and_seals_the_mail_of_all_enrolled_users(
    lab: Lab, sealer: Server
) -> None:
    for user, count in ((USER, 250), (OTHER, 3), (NEVER, 3)):
        fill(lab, user, count)
    box = Mailbox(lab, USER, SECRET, ["INBOX"])
    sealer.start(until=[])
    enroll(lab, USER)
    wait(lambda: any(sealed(lab, USER)))
    assert state(lab, USER)["phase"] == "sealing"
    os.kill(sealer.pid, signal.SIGKILL)
    sealer.stop()
    assert not all(sealed(lab, USER))
    enroll(lab, OTHER)  # the service is not running, and nothing is lost
    sealer.start(until=[])
    midway: dict[str, Any] = {}

    def is_midway() -> bool:
        midway.update(state(lab, USER))
        return int(midway.get("done", 0)) in range(1, 250)

    wait(is_midway)
    assert (midway["phase"], midway["total"]) == ("sealing", 250)
    assert midway["rate"] > 0 and midway["seconds_left"] is not None
    wait(lambda: state(lab, USER).get("phase") == "done" and state(lab, OTHER).get("phase"))
    wait(lambda: state(lab, OTHER)["phase"] == "done")
    assert all(sealed(lab, USER)) and all(sealed(lab, OTHER))
    assert not any(sealed(lab, NEVER))
    box.require_as_remembered()
    assert 0 <= time.time() - state(lab, USER)["at"] < 600
    assert {**state(lab, USER), "at": 0} == {
        "at": 0,
        "phase": "done",
        "done": 250,
        "total": 250,
        "left": 0,
        "rate": 0.0,
        "problem": "",
        "seconds_left": None,
    }
    text = lab.mailseal("status", USER).stdout.decode()
    assert re.search(r"existing mail: sealed on [\d-]{10}\n", text)
    for folder, _, names in os.walk(lab.maildir(USER)):
        assert os.path.basename(folder) != "tmp" or names == []


def test_a_failure_is_reported_and_tried_again(lab: Lab, sealer: Server) -> None:
    fill(lab, USER, 2)
    enroll(lab, USER)
    lab.dovecot.stop()
    sealer.start(until=[])
    wait(lambda: state(lab, USER).get("problem"))
    assert state(lab, USER)["phase"] == "waiting"
    assert "waits to be sealed (cannot ask Dovecot" in lab.mailseal("status", USER).stdout.decode()
    sealer.stop()
    lab.dovecot.start()
    os.unlink(
        os.path.join(
            lab.place.path("state"), "sealer", os.listdir(lab.place.path("state", "sealer"))[0]
        )
    )
    sealer.start(until=[])
    wait(lambda: state(lab, USER).get("phase") == "done")
    assert all(sealed(lab, USER))


def test_one_user_at_a_time_on_each_disk(lab: Lab, sealer: Server) -> None:
    """Sue's mail is on another disk, so it does not wait."""
    fill(lab, USER, 120)
    enroll(lab, USER)
    home = lab.home(OTHER)
    os.mkdir(home)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", home], check=True)
    try:
        os.chown(home, MAIL_UID, MAIL_UID)
        users = (USER, NEVER, OTHER)
        for user in users[1:]:
            fill(lab, user, 120)
            enroll(lab, user)
        sealer.start(until=[])
        at_once: set[frozenset[str]] = set()
        jobs = Jobs(configuration.load(lab.config_path).sealer_dir)

        def now(phase: str) -> frozenset[str]:
            return frozenset(
                user for user in users if getattr(jobs.load(user), "phase", "") == phase
            )

        def done() -> bool:
            # Who was sealing before and is after, was so between: not one after the other.
            at_once.add(now("sealing") & now("sealing"))
            return now("done") == set(users)

        wait(done)
        assert not any(together >= {USER, NEVER} for together in at_once), at_once
        assert any(OTHER in together and len(together) > 1 for together in at_once), at_once
        assert all(all(sealed(lab, user)) for user in users)
    finally:
        sealer.stop()
        subprocess.run(["umount", "-l", home], check=True)
