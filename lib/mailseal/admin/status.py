# SPDX-License-Identifier: MIT
"""mailseal status: enrolled users, their key pairs, slots and problems.

FAILURES
    The exit status is 65 if a user has a PROBLEM; otherwise the agent's errors.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from mailseal.admin import check_results
from mailseal.admin.enroll import NO_SECOND_WAY
from mailseal.admin.prompt import Passwords
from mailseal.admin.seal_jobs import Jobs, described
from mailseal.errors import EX_DATAERR, UsageError
from mailseal.keys import record

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context


def register(commands: Commands) -> None:
    """Add this module's command."""
    parser = commands.add(
        "status",
        status,
        "show users, keys, slots and sessions",
        group="users",
        example="mailseal status alice@example.com",
    )
    parser.add_argument("user", metavar="USER", nargs="?")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--without-recovery",
        action="store_true",
        help="only users who have no recovery method: who forgets the password loses the mail",
    )
    parser.add_argument(
        "--names", action="store_true", help="print the names only, one a line, for scripts"
    )
    parser.add_argument(
        "--stdin",
        action="store_true",
        help="login password or recovery code of USER from standard input; with it, users in "
        "agent.panel_users can see all slots of USER",
    )


def status(context: Context) -> int:
    """One user or all, as text or as JSON.  The exit status is 65 if a user has a PROBLEM."""
    arguments = context.arguments
    secret = None
    if arguments.stdin:
        if not arguments.user:
            raise UsageError("--stdin needs a USER")
        secret = Passwords(from_stdin=True).ask(f"password of {arguments.user}")
    found = all_status(context, arguments.user, secret)
    if arguments.without_recovery:
        found["users"] = [entry for entry in found["users"] if not entry.get("second_way", True)]
    jobs = Jobs(context.config.sealer_dir)
    checks = check_results.Checks(context.config.checks_dir)
    for entry in found["users"]:
        if job := jobs.load(entry["user"]):
            entry["existing"] = job.as_json()
        if check := checks.load(entry["user"]):
            entry["checked"] = check.as_json()
    if arguments.names:
        sys.stdout.writelines(f"{entry['user']}\n" for entry in found["users"])
    elif arguments.json:
        json.dump(found, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        for entry in found["users"]:
            sys.stdout.write(_describe(entry))
        if not arguments.user:
            sys.stdout.write(f"{len(found['users'])} enrolled, {found['sessions']} sessions\n")
    return EX_DATAERR if any(map(_has_problem, found["users"])) else 0


def _has_problem(entry: dict[str, Any]) -> bool:
    return "problem" in entry or entry.get("public_key", "ok") != "ok"


def all_status(
    context: Context, user: str | None = None, secret: bytes | None = None
) -> dict[str, Any]:
    """The agent's answer for one user, or all pages of the answer for all users."""
    fields: dict[str, bytes] = {}
    if user:
        fields["user"] = os.fsencode(user)
    if secret is not None:
        fields["secret"] = secret
    users: list[dict[str, Any]] = []
    while True:
        answer = context.ask("status", **fields)
        users += record.parse(answer.fields["users"])
        if "more" not in answer.fields:
            return {"sessions": int(answer.text("sessions") or 0), "users": users}
        fields["after"] = users[-1]["user"].encode()


def _describe(entry: dict[str, Any]) -> str:
    """The lines about one user."""
    if "ways_in" in entry:
        return f"{entry['user']}\n  slots: {', '.join(entry['ways_in'])}\n"
    if "problem" in entry:
        hint = f"  hint: {entry['hint']}\n" if entry.get("hint") else ""
        return f"{entry['user']}\n  PROBLEM: {entry['problem']}\n{hint}"
    lines = [entry["user"]]
    for number, key in enumerate(entry["keys"]):
        use = "seals new mail" if number == len(entry["keys"]) - 1 else "older, for reading only"
        lines.append(f"  key {key['id'][:16]} {key['curve']} {_day(key['created'])}, {use}")
    lines.append(f"  {entry['room']} more key pairs fit")
    if entry["public_key"] != "ok":
        lines.append(f"  PROBLEM: public key: {entry['public_key']}")
        lines.append(f"  hint: to publish the keyring's key, run `mailseal repair {entry['user']}`")
    logins = [slot["id"] for slot in entry["slots"] if slot["kind"] == "login"]
    if len(logins) > 1:
        end = (
            f"`mailseal passwd {entry['user']} --commit {logins[0]}`, or with `--undo {logins[0]}`"
        )
        lines.append(
            f"  NOTE: both passwords of an open password change are valid; end it with {end}"
        )
    for slot in entry["slots"]:
        label = f" ({slot['label']})" if slot["label"] else ""
        unknown = (
            "" if slot["known"] else ", made by a newer version of mailseal, unknown to this one"
        )
        lines.append(f"  slot {slot['id']} {slot['kind']}{label} {_day(slot['created'])}{unknown}")
    if job := entry.get("existing"):
        lines.append(f"  existing mail: {described(job)}")
    if check := entry.get("checked"):
        warning = "WARNING: " if check["counts"] else ""
        lines.append(f"  {warning}{check_results.described(check)}")
        if check["counts"]:
            lines.append(f"  hint: `mailseal verify --tags {entry['user']}` lists the problems")
    if not entry["second_way"]:
        lines.append(f"  WARNING: {NO_SECOND_WAY}")
    if index := entry.get("index"):
        lines.append(f"  {_index(index)}")
    if entry["session"]:
        lines.append(f"  session: {entry['session']['age']} s old")
    return "\n".join(lines) + "\n"


def _index(index: dict[str, str]) -> str:
    if "folder" not in index and "problem" not in index:
        return f"index: {index['state']}"
    if index["state"] == "not encrypted":
        return f"WARNING: the index is not encrypted: {index['problem']}"
    return f"index: encrypted and {index['state']}, {index['folder']}"


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
