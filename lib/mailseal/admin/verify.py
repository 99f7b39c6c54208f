# SPDX-License-Identifier: MIT
"""mailseal verify: checks that all stored mail of enrolled users is sealed and unchanged.

Without private keys it checks structure, sizes and key id of each mail, and that no text is in
clear.  With private keys (key_sources.py) it also checks the tag of each mail, which detects
every changed bit.  It changes nothing.  Processes with the rights of the owner read the mail.

Exit status 0 if there are no problems, 1 if there are; mail that could not be checked is a
problem too.  mailbox/report.py has the kinds of findings.

FAILURES
    NotEnrolled, WrongPassword, AgentUnavailable.  If a user's mail cannot be found, this is a
    finding.
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
        "check that stored mail is sealed and unchanged",
        group="mail",
        example="mailseal verify --all --json",
    )
    parser.add_argument("users", nargs="*", metavar="USER")
    parser.add_argument("--all", action="store_true", help="all enrolled users")
    parser.add_argument("--domain", metavar="DOMAIN", help="all enrolled users of a domain")
    parser.add_argument(
        "--tags",
        action="store_true",
        help="also check the tag of each mail: asks for the user's password or a recovery code",
    )
    key_sources.add_options(parser)
    parser.add_argument("--key", metavar="FILE", help="file with the user's private keys")
    parser.add_argument(
        "--maildir",
        action="append",
        default=[],
        help="check this Maildir of USER too (may be repeated)",
    )
    parser.add_argument(
        "--jobs",
        type=_jobs,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="number of processes (default: one for each core)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise UsageError("--jobs takes a number from 1 to 256")
    return int(text)


def run(context: Context) -> int:
    """See the module's docstring."""
    arguments = context.arguments
    tags = arguments.tags or arguments.stdin or arguments.escrow_key or arguments.key
    if tags and not arguments.users and not arguments.escrow_key:
        raise UsageError(
            "--tags needs the password of each user: give the user names, or use --escrow-key"
        )
    entries = _chosen(context)
    if (arguments.maildir or arguments.key) and len(entries) != 1:
        raise UsageError("--maildir and --key need exactly one USER")
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
                "after they were sealed: somebody wrote to the mail store, or a disk is faulty\n"
            )
        if result.counts[FOREIGN]:
            _tell_foreign(result)
    if arguments.json:
        json.dump({"users": [result.as_json() for result in results]}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    return EX_FOUND if any(result.counts for result in results) else 0


def _tell_foreign(result: Result) -> None:
    """After the restore of an older keyring, nothing else names this mail before it is opened."""
    sys.stderr.write(
        f"mailseal: WARNING: {result.counts[FOREIGN]} mails of {result.user} are sealed to a key "
        "that is not in the keyring: the user cannot read them\n"
        "mailseal: hint: if the keyring was restored from an older backup or dump, look for a "
        f"newer backup, and run `mailseal restore --force FILE {result.user}`\n"
    )


def _chosen(context: Context) -> list[dict[str, Any]]:
    """The agent's status of each selected user."""
    from mailseal.admin.status import all_status

    arguments = context.arguments
    if bool(arguments.users) + arguments.all + bool(arguments.domain) != 1:
        raise UsageError("give either user names, or --all, or --domain DOMAIN")
    if arguments.users:
        return [all_status(context, user)["users"][0] for user in arguments.users]
    found: list[dict[str, Any]] = all_status(context)["users"]
    if arguments.domain:
        domain = arguments.domain.lower()
        found = [entry for entry in found if entry["user"].rpartition("@")[2] == domain]
    if not found:
        where = f" in {arguments.domain}" if arguments.domain else ""
        sys.stderr.write(f"mailseal: warning: no user is enrolled{where}\n")
    return found


def _verified(
    context: Context, entry: dict[str, Any], source: key_sources.Source | None, places: Places
) -> Result:
    """Check one user's mail; again if a key pair was added meanwhile, which seems foreign."""
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
            result.cannot(f"the mail location is not known: {exc}")
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
