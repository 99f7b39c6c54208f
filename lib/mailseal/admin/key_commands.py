# SPDX-License-Identifier: MIT
"""mailseal passwd, status, lock, repair: the everyday life of keys.

Passwords come from the terminal, or as lines of standard input with --stdin or
when standard input is no terminal: `passwd` reads two, the old password and the
new one.  What a panel needs of `passwd`, with its exit
statuses, stands in docs/panels.md.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from mailseal.admin import two_places
from mailseal.admin.enroll import NO_SECOND_WAY
from mailseal.admin.pair_commands import report_rekey
from mailseal.admin.prompt import Passwords
from mailseal.errors import EX_DATAERR, UsageError

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context


def register(commands: Commands) -> None:
    """Add this module's commands."""
    change = commands.add("passwd", passwd, "change the password that opens a user's keyring")
    change.add_argument("user", metavar="USER")
    change.add_argument("--stdin", action="store_true", help="passwords from standard input")
    change.add_argument(
        "--null", action="store_true", help="passwords on standard input end with NUL, not LF"
    )
    two_places.add_options(change)
    change.add_argument(
        "--compromised",
        action="store_true",
        help="somebody knows the old password: rekey too; app passwords and recovery codes go",
    )
    end = change.add_mutually_exclusive_group()
    end.add_argument("--commit", metavar="ID", help="end the change ID with the new password")
    end.add_argument("--undo", metavar="ID", help="end the change ID with the old password")
    status_parser = commands.add("status", status, "show users, keys, slots and sessions")
    status_parser.add_argument("user", metavar="USER", nargs="?")
    status_parser.add_argument("--json", action="store_true", help="for machines")
    status_parser.add_argument(
        "--stdin",
        action="store_true",
        help="login password or recovery code of USER from standard input: with it, "
        "agent.panel_users see all of that user's slots",
    )
    lock_parser = commands.add("lock", lock, "end a user's session, or all of them")
    who = lock_parser.add_mutually_exclusive_group(required=True)
    who.add_argument("user", metavar="USER", nargs="?")
    who.add_argument("--all", action="store_true")
    repair_parser = commands.add("repair", repair, "publish a user's own public key again")
    repair_parser.add_argument("user", metavar="USER")


def passwd(context: Context) -> int:
    """Change the login password; the mail stays as it is."""
    arguments = context.arguments
    user = os.fsencode(arguments.user)
    if arguments.commit is not None or arguments.undo is not None:
        return _settle(context, user)
    two_places.check_options(context)
    if arguments.compromised and arguments.keep_old:
        raise UsageError("--compromised ends the old password: it does not go with --keep-old")
    passwords = Passwords(from_stdin=arguments.stdin, null=arguments.null)
    old = passwords.ask(f"old password of {arguments.user}")
    new = passwords.ask(f"new password of {arguments.user}", new=True)
    if not two_places.change(context, "passwd", user, new, old=old):
        sys.stdout.write("password changed\n")
        two_places.note_one_place(context)
    if arguments.compromised:
        report_rekey(context, context.ask("rekey", user=user, password=new))
    return 0


def _settle(context: Context, user: bytes) -> int:
    arguments = context.arguments
    if arguments.then is not None or arguments.keep_old or arguments.compromised:
        raise UsageError("--commit and --undo end a change: nothing else goes with them")
    verb, one = ("undo", "old") if arguments.commit is None else ("commit", "new")
    change = os.fsencode(arguments.undo if arguments.commit is None else arguments.commit)
    context.ask(verb, user=user, change=change)
    sys.stdout.write(f"only the {one} password opens\n")
    return 0


def status(context: Context) -> int:
    """One user or all, for people or as JSON.  Ends with 65 if a user has a PROBLEM."""
    arguments = context.arguments
    secret = None
    if arguments.stdin:
        if not arguments.user:
            raise UsageError("--stdin needs a USER")
        secret = Passwords(from_stdin=True).ask(f"password of {arguments.user}")
    found = all_status(context, arguments.user, secret)
    if context.arguments.json:
        json.dump(found, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        for entry in found["users"]:
            sys.stdout.write(_describe(entry))
        sys.stdout.write(f"{len(found['users'])} enrolled, {found['sessions']} sessions\n")
    return EX_DATAERR if any(map(_has_problem, found["users"])) else 0


def _has_problem(entry: dict[str, Any]) -> bool:
    return "problem" in entry or entry.get("public_key", "ok") != "ok"


def all_status(
    context: Context, user: str | None = None, secret: bytes | None = None
) -> dict[str, Any]:
    """The agent's answer about one user, or all pages of it about all."""
    fields: dict[str, bytes] = {}
    if user:
        fields["user"] = os.fsencode(user)
    if secret is not None:
        fields["secret"] = secret
    users: list[dict[str, Any]] = []
    while True:
        reply = context.ask("status", **fields)
        users += json.loads(reply.fields["users"])
        if "more" not in reply.fields:
            return {"sessions": int(reply.text("sessions") or 0), "users": users}
        fields["after"] = users[-1]["user"].encode()


def _describe(entry: dict[str, Any]) -> str:
    """A few lines about a user."""
    if "ways_in" in entry:
        return f"{entry['user']}\n  ways in: {', '.join(entry['ways_in'])}\n"
    if "problem" in entry:
        hint = f"  hint: {entry['hint']}\n" if entry.get("hint") else ""
        return f"{entry['user']}\n  PROBLEM: {entry['problem']}\n{hint}"
    lines = [entry["user"]]
    for number, key in enumerate(entry["keys"]):
        use = "seals new mail" if number == len(entry["keys"]) - 1 else "older, for reading"
        lines.append(f"  key {key['id'][:16]} {key['curve']} {_day(key['created'])}, {use}")
    lines.append(f"  {entry['room']} more key pairs fit")
    if entry["public_key"] != "ok":
        lines.append(f"  PROBLEM: public key: {entry['public_key']}")
        lines.append(f"  hint: to publish the keyring's, run `mailseal repair {entry['user']}`")
    logins = [slot["id"] for slot in entry["slots"] if slot["kind"] == "login"]
    if len(logins) > 1:
        end = f"`mailseal passwd {entry['user']} --commit {logins[0]}`, or `--undo {logins[0]}`"
        lines.append(f"  NOTE: two login passwords open until a login decides, or {end}")
    for slot in entry["slots"]:
        label = f" ({slot['label']})" if slot["label"] else ""
        unknown = "" if slot["known"] else ", made by a newer mailseal, unknown here"
        lines.append(f"  slot {slot['id']} {slot['kind']}{label} {_day(slot['created'])}{unknown}")
    if not entry["second_way"]:
        lines.append(f"  WARNING: {NO_SECOND_WAY}")
    if entry["session"]:
        lines.append(f"  session: {entry['session']['age']} s old")
    return "\n".join(lines) + "\n"


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def lock(context: Context) -> int:
    """Forget opened keyrings: the next login needs the password and Argon2id again."""
    user = context.arguments.user
    reply = context.ask("lock", **({"user": os.fsencode(user)} if user else {}))
    sys.stdout.write(f"{reply.text('ended')} sessions ended\n")
    return 0


def repair(context: Context) -> int:
    """Publish the key that the keyring holds as current."""
    reply = context.ask("repair", user=os.fsencode(context.arguments.user))
    found = reply.text("found")
    sys.stdout.write(f"published again ({found})\n" if found else "nothing to repair\n")
    return 0
