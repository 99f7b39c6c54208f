# SPDX-License-Identifier: MIT
"""mailseal enroll, passwd, status, lock, repair: the everyday life of keys.

Passwords come from the terminal, or as lines of standard input with --stdin or
when standard input is no terminal: `enroll` reads one line, `passwd` two, the old
password and the new one.  What a panel needs of `passwd`, with its exit
statuses, stands in docs/panels.md.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from mailseal.admin.prompt import Passwords
from mailseal.errors import TemporaryError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from mailseal.admin.command import Commands, Context

NO_SECOND_WAY = "no second way in: a forgotten password means LOST MAIL"


def register(commands: Commands) -> None:
    """Add this module's commands."""
    _with_user(commands.add("enroll", enroll, "make a key pair for a user"))
    change = _with_user(
        commands.add("passwd", passwd, "change the password that opens a user's keyring")
    )
    change.add_argument(
        "--null", action="store_true", help="passwords on standard input end with NUL, not LF"
    )
    change.add_argument(
        "--then",
        metavar="COMMAND",
        nargs="...",
        help="run COMMAND, which gets the new password as a line on standard input and changes "
        "the other password database; if it fails, the old password stays (last option)",
    )
    stage = change.add_mutually_exclusive_group()
    stage.add_argument(
        "--keep-old",
        action="store_true",
        help="let both passwords open, until --commit, --undo or a login that the passdb accepted",
    )
    stage.add_argument("--commit", action="store_true", help="end --keep-old with the new password")
    stage.add_argument("--undo", action="store_true", help="end --keep-old with the old password")
    status_parser = commands.add("status", status, "show users, keys, slots and sessions")
    status_parser.add_argument("user", metavar="USER", nargs="?")
    status_parser.add_argument("--json", action="store_true", help="for machines")
    lock_parser = commands.add("lock", lock, "end a user's session, or all of them")
    who = lock_parser.add_mutually_exclusive_group(required=True)
    who.add_argument("user", metavar="USER", nargs="?")
    who.add_argument("--all", action="store_true")
    repair_parser = commands.add("repair", repair, "publish a user's own public key again")
    repair_parser.add_argument("user", metavar="USER")


def _with_user(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("user", metavar="USER")
    parser.add_argument("--stdin", action="store_true", help="password from standard input")
    return parser


def enroll(context: Context) -> int:
    """Make a keyring.  The password is the user's login password."""
    arguments = context.arguments
    password = Passwords(from_stdin=arguments.stdin).ask(f"password of {arguments.user}", new=True)
    reply = context.ask("enroll", user=os.fsencode(arguments.user), password=password)
    sys.stdout.write(f"{reply.text('user')} is enrolled, key {reply.text('key_id')[:16]}\n")
    sys.stderr.write(
        "mailseal: hint: an IMAP session that is open now still saves in clear: "
        f"`doveadm kick {reply.text('user')}`\n"
    )
    if set(reply.text("kinds").split(",")) <= {"login", "app"}:
        sys.stderr.write(
            f"mailseal: warning: {reply.text('user')} has {NO_SECOND_WAY}\n"
            f"mailseal: hint: run `mailseal recovery-code {reply.text('user')}`\n"
        )
    return 0


def passwd(context: Context) -> int:
    """Change the login password; the mail stays as it is."""
    arguments = context.arguments
    user = os.fsencode(arguments.user)
    if arguments.commit or arguments.undo:
        reply = context.ask("commit" if arguments.commit else "undo", user=user)
        one = "the new" if arguments.commit else "the old"
        done = "changed" in reply.fields
        sys.stdout.write(f"only {one} password opens\n" if done else "there was only one\n")
        return 0
    passwords = Passwords(from_stdin=arguments.stdin, null=arguments.null)
    old = passwords.ask(f"old password of {arguments.user}")
    new = passwords.ask(f"new password of {arguments.user}", new=True)
    if arguments.then:
        return _change_both(context, user, old, new)
    keep = {"keep_old": b"1"} if arguments.keep_old else {}
    context.ask("passwd", user=user, old=old, new=new, **keep)
    sys.stdout.write("both passwords open\n" if keep else "password changed\n")
    return 0


def _change_both(context: Context, user: bytes, old: bytes, new: bytes) -> int:
    """Keyring and another database, together or not at all.

    Between the first step and the last both passwords open the keyring: whoever the
    other database lets in, at whatever moment this process dies, gets the key.
    """
    import subprocess

    command = context.arguments.then
    context.ask("passwd", user=user, old=old, new=new, keep_old=b"1")
    try:
        done = subprocess.run(command, input=new + b"\n", stdout=2).returncode == 0
    except OSError as exc:
        sys.stderr.write(f"mailseal: warning: cannot run {command[0]}: {exc.strerror}\n")
        done = False
    context.ask("commit" if done else "undo", user=user)
    if not done:
        raise TemporaryError(f"{command[0]} failed, the old password stays")
    sys.stdout.write("password changed in both places\n")
    return 0


def status(context: Context) -> int:
    """One user or all, for people or as JSON."""
    found = all_status(context, context.arguments.user)
    if context.arguments.json:
        json.dump(found, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    for entry in found["users"]:
        sys.stdout.write(_describe(entry))
    sys.stdout.write(f"{len(found['users'])} enrolled, {found['sessions']} sessions\n")
    return 0


def all_status(context: Context, user: str | None = None) -> dict[str, Any]:
    """The agent's answer about one user, or all pages of it about all."""
    fields: dict[str, bytes] = {}
    if user:
        fields["user"] = os.fsencode(user)
    users: list[dict[str, Any]] = []
    while True:
        reply = context.ask("status", **fields)
        users += json.loads(reply.fields["users"])
        if "more" not in reply.fields:
            return {"sessions": int(reply.text("sessions")), "users": users}
        fields["after"] = users[-1]["user"].encode()


def _describe(entry: dict[str, Any]) -> str:
    """A few lines about a user."""
    if "problem" in entry:
        return f"{entry['user']}\n  PROBLEM: {entry['problem']}\n"
    lines = [entry["user"]]
    for number, key in enumerate(entry["keys"]):
        use = "seals new mail" if number == len(entry["keys"]) - 1 else "older, for reading"
        lines.append(f"  key {key['id'][:16]} {key['curve']} {_day(key['created'])}, {use}")
    if entry["public_key"] != "ok":
        lines.append(f"  PROBLEM: public key: {entry['public_key']}")
    if sum(slot["kind"] == "login" for slot in entry["slots"]) > 1:
        lines.append("  NOTE: two login passwords open: `mailseal passwd --commit` or `--undo`")
    for slot in entry["slots"]:
        label = f" ({slot['label']})" if slot["label"] else ""
        lines.append(f"  slot {slot['id']} {slot['kind']}{label} {_day(slot['created'])}")
    if all(slot["kind"] in ("login", "app") for slot in entry["slots"]):
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
