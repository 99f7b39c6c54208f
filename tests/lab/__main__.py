# SPDX-License-Identifier: MIT
"""`make lab`: runs all servers in the foreground, until Ctrl-C or SIGTERM.

SYNOPSIS
    [LAB_USERS=n] [LAB_DIR=folder] make lab

DESCRIPTION
    When all servers are ready, prints one line of JSON to standard output: the
    addresses, the folder, the configuration file, users and passwords.
    LAB_USERS   number of users; default 1.  For more than 20 users, keyrings have
                the profile insecure-testing: with the standard profile each takes 0.2 s
    LAB_DIR     folder of the lab.  It is kept, and a later lab in this folder
                has the same users and mail

DIAGNOSTICS
    `mailseal: error: ...` and `mailseal: hint: ...` on standard error, status 1.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys

from tests.lab.lab import Lab
from tests.lab.place import LabError, Place
from tests.lab.process import interrupt_on_signals

_NAMES = ("alice", "bob", "carol", "dave", "erin")


def main() -> int:
    """Run the lab; returns the exit status."""
    interrupt_on_signals()
    try:
        directory = os.environ.get("LAB_DIR") or None
        users = _users(_count(), directory)
        kdf = "standard" if len(users) <= 20 else "insecure-testing"
        with Lab(users, directory=directory, kdf=kdf) as lab:
            sys.stdout.write(json.dumps(lab.summary()) + "\n")
            sys.stdout.flush()
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 0
    except LabError as exc:
        sys.stderr.write(f"mailseal: error: {exc}\n")
        if exc.hint:
            sys.stderr.write(f"mailseal: hint: {exc.hint}\n")
        return 1


def _count() -> int:
    text = os.environ.get("LAB_USERS") or "1"
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise LabError(
            f"LAB_USERS={text} is no number of users", hint="LAB_USERS=3 make lab, at most 100000"
        )
    return int(text)


def _users(count: int, directory: str | None) -> dict[str, str]:
    """alice, bob, ... user6, user7, each with its own password; after those of an earlier lab."""
    users = Place.remembered(directory) if directory else {}
    number = 0
    while len(users) < count:
        name = _NAMES[number] if number < len(_NAMES) else f"user{number + 1}"
        users.setdefault(f"{name}@example.org", secrets.token_urlsafe(9))
        number += 1
    return users


if __name__ == "__main__":
    sys.exit(main())
