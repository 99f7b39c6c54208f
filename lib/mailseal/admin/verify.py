# SPDX-License-Identifier: MIT
"""mailseal verify: is all stored mail of enrolled users sealed, the user's own, and unchanged?

Without a private key: structure, sizes and key of every mail, and that nothing lies in clear.
With it (key_sources.py) also the tag of every mail, which finds every changed bit.
Nothing is moved, written or repaired.  The mail is read as its owner, in several processes.

Exit status 0 if nothing was found, 1 if something was; what could not be looked at is
found, too.  mailbox/report.py has the kinds of findings.

FAILURES
    NotEnrolled, WrongPassword, AgentUnavailable.  A user whose mail cannot be found is a finding.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from mailseal.admin import key_sources
from mailseal.admin.mail_place import Places
from mailseal.admin.progress import Progress
from mailseal.admin.verify_mail import Examination
from mailseal.admin.verify_result import Result
from mailseal.errors import MailsealError, UsageError
from mailseal.mailbox.examine import CHANGED, FOREIGN, Expected

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context

EX_FOUND = 1


def register(commands: Commands) -> None:
    """Add this module's commands."""
    parser = commands.add(
        "verify",
        run,
        "check stored mail: nothing in clear, nothing changed",
        group="mail",
        example="mailseal verify --all --json",
    )
    parser.add_argument("users", nargs="*", metavar="USER")
    parser.add_argument("--all", action="store_true", help="every enrolled user")
    parser.add_argument("--domain", metavar="DOMAIN", help="every enrolled user of a domain")
    parser.add_argument(
        "--tags",
        action="store_true",
        help="check the tag of every mail too: asks for the user's password or a recovery code",
    )
    key_sources.add_options(parser)
    parser.add_argument("--key", metavar="FILE", help="file with the user's private keys")
    parser.add_argument(
        "--maildir", action="append", default=[], help="look into this Maildir too, for one USER"
    )
    parser.add_argument(
        "--jobs",
        type=_jobs,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="processes (default: one for each processor)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise UsageError("--jobs takes a number from 1 to 256")
    return int(text)


def run(context: Context) -> int:
    """See the module's docstring."""
    arguments = context.arguments
    tags = arguments.tags or arguments.stdin or arguments.escrow_key or arguments.key
    if tags and not arguments.users and not arguments.escrow_key:
        raise UsageError("the tags of a user's mail need that user's password: name the users")
    entries = _chosen(context)
    if (arguments.maildir or arguments.key) and len(entries) != 1:
        raise UsageError("--maildir and --key go with one USER")
    source = key_sources.Source(context) if tags else None
    places = Places(context.config)
    results: list[Result] = []
    for entry in entries:
        try:
            result = _verified(context, entry, source, places)
        except MailsealError as exc:
            if len(entries) == 1:
                raise
            result = Result(entry["user"], tags=False)
            result.cannot(f"not checked: {exc}")
        if not arguments.json:
            sys.stdout.write(result.as_text())
            result.findings.clear()
        results.append(result)
        if result.counts[CHANGED]:
            sys.stderr.write(
                f"mailseal: WARNING: {result.counts[CHANGED]} mails of {result.user} were changed "
                "after they were sealed: somebody wrote to the mail store, or a disk fails\n"
            )
    if arguments.json:
        json.dump({"users": [result.as_json() for result in results]}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    return EX_FOUND if any(result.counts for result in results) else 0


def _chosen(context: Context) -> list[dict[str, Any]]:
    """What the agent says of each user who was asked for."""
    from mailseal.admin.status import all_status

    arguments = context.arguments
    if bool(arguments.users) + arguments.all + bool(arguments.domain) != 1:
        raise UsageError("name users, or say --all, or --domain DOMAIN")
    if arguments.users:
        return [all_status(context, user)["users"][0] for user in arguments.users]
    found: list[dict[str, Any]] = all_status(context)["users"]
    if arguments.domain:
        domain = arguments.domain.lower()
        found = [entry for entry in found if entry["user"].rpartition("@")[2] == domain]
    return found


def _verified(
    context: Context, entry: dict[str, Any], source: key_sources.Source | None, places: Places
) -> Result:
    """One user's mail.  Again, if the user has got a new pair meanwhile, which looks foreign."""
    from mailseal.admin.status import all_status

    arguments = context.arguments
    user = entry["user"]
    keys = tuple(source.of(user)) if source else ()
    while True:
        result = Result(user, tags=bool(keys))
        if "problem" in entry:
            result.cannot(entry["problem"])
            return result
        try:
            place = places.of(user)
        except MailsealError as exc:
            result.cannot(f"it is not known where the mail lies: {exc}")
            return result
        key_ids = frozenset(bytes.fromhex(key["id"]) for key in entry["keys"])
        expected = Expected(key_ids, keys, place.compressed)
        shown = Progress(user, "checking", quiet=arguments.json)
        try:
            Examination(result, place, expected, arguments.jobs, shown.show).run(arguments.maildir)
        finally:
            shown.end()
        if not result.counts[FOREIGN]:
            return result
        before, (entry,) = entry, all_status(context, user)["users"]
        if entry.get("keys") == before["keys"]:
            return result
