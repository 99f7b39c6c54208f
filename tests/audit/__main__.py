# SPDX-License-Identifier: MIT
"""`make audit`: is any word of an enrolled user's mail on the disk, or in a log?

SYNOPSIS
    make audit
    make audit ARGS='--queue=plain'
    make audit ARGS='--guide'
    make audit ARGS='--system-users'
    make audit ARGS='--prove'

DESCRIPTION
    A real Postfix, Dovecot and mailseal run on a separate disk: ext4 in a file.  Mails with
    unique words in each header, body and attachment arrive by SMTP.  Clients list, search, sort,
    copy, move and save mail, with IMAP and POP3; a Sieve script sorts it; mail in clear is sealed.
    In the middle of this, all processes are killed.  Then the raw disk, all logs and the tmpfs
    are searched for the words, in all encodings: see tests.audit.words.  Words of a user who is
    not enrolled must be found, which shows that the search works.

    --queue=fscrypt   Postfix's queue and the logs are in encrypted folders; the default
    --queue=plain     they are not: words that they leave on the disk are counted, but not a fault
    --guide           with settings of common guides: compression, quota, virtual mailboxes
    --system-users    each user has an own uid and a home directory (docs/system-users.md)
    --prove           turns off each protection in turn, and must find words each time

    It needs root, loop devices and Debian's e2fsprogs.

DIAGNOSTICS
    A table; the same in build/audit.json.  Status 0: no word of an enrolled user was found, but
    words of the control user were.  1: otherwise.  2: it cannot run here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys

from tests.audit import guide
from tests.audit.machine import Setup, audit, with_system_users
from tests.audit.result import Result
from tests.lab.place import REPOSITORY, LabError
from tests.lab.process import interrupt_on_signals


def main(argv: list[str]) -> int:
    """Run it; returns the exit status."""
    interrupt_on_signals()
    parser = argparse.ArgumentParser(prog="make audit")
    parser.add_argument("--queue", choices=("fscrypt", "plain"), default="fscrypt")
    parser.add_argument("--guide", action="store_true")
    parser.add_argument("--system-users", action="store_true")
    parser.add_argument("--prove", action="store_true")
    wanted = parser.parse_args(argv)
    try:
        if wanted.prove:
            from tests.audit import broken

            return broken.main(_say)
        setup = guide.setup() if wanted.guide else Setup()
        if wanted.system_users:
            setup = with_system_users()
        encrypted = wanted.queue == "fscrypt"
        result = audit(dataclasses.replace(setup, encrypted_queue=encrypted), _say)
    except LabError as exc:
        sys.stderr.write(f"mailseal: error: {exc}\n")
        if exc.hint:
            sys.stderr.write(f"mailseal: hint: {exc.hint}\n")
        return 2
    _report(result)
    return 0 if result.green else 1


def _say(line: str) -> None:
    """Print the progress to standard error."""
    print(line, file=sys.stderr, flush=True)


def _report(result: Result) -> None:
    folder = os.path.join(REPOSITORY, "build")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "audit.json"), "w", encoding="utf-8") as stream:
        json.dump(result.as_json(), stream, indent=1)
        stream.write("\n")
    print(f"Dovecot {result.dovecot}: hits of words of each user's mail\n")
    print(result.table())
    for place in result.leaks():
        print(f"\n{place}:")
        for example in sorted(result.examples[place])[:10]:
            print(f"    {example}")
    if result.blind():
        print("\nThe control user, who is not enrolled, was not found: this proves nothing.")
    if not result.full_text:
        print("\nNo full-text index: its package is not installed, or the users are system users.")
    megabytes = result.searched >> 20
    verdict = "no word was found" if result.green else "NOT PRIVATE"
    print(f"\n{megabytes} MB searched: {verdict}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
