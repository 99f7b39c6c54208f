# SPDX-License-Identifier: MIT
"""mailseal doctor: checks a running mail server, and proves with test logins that it seals mail.

With USER and the password it logs in to each service, saves a mail in a folder of its own, and
sends a mail with Postfix's sendmail.  All of these are removed again.  docs/doctor.md lists the
checks.

Exit status: 0 if all checks pass, 1 if there are warnings, 2 if a check fails.

FAILURES
    NotPermitted: not root.  UsageError: no such check, no password.  ConfigError: mailseal.yaml
    cannot be used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

from mailseal.errors import NotPermitted, UsageError

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context
    from mailseal.admin.doctor.check import Check, Result
    from mailseal.admin.doctor.trial import Trial

_WIDTH = 78


def register(commands: Commands) -> None:
    """Add this module's command."""
    parser = commands.add(
        "doctor",
        doctor,
        "check the running mail server, and prove with test logins that it seals mail",
        group="operation",
        example="mailseal doctor alice@example.com",
    )
    parser.add_argument(
        "user",
        metavar="USER",
        nargs="?",
        help="an enrolled user for test logins and a test mail, for example one that you have made "
        "for this; asks for the password",
    )
    parser.add_argument("--stdin", action="store_true", help="password from standard input")
    parser.add_argument(
        "--add",
        metavar="COMMAND",
        help="make USER for this run: COMMAND gets the address as its last argument, and reads the "
        "password as one line from standard input; USER must not exist, and is enrolled",
    )
    parser.add_argument(
        "--remove",
        metavar="COMMAND",
        help="remove USER at the end: COMMAND gets the address as its last argument",
    )
    parser.add_argument(
        "--plain-user", metavar="ADDRESS", help="a user who is not enrolled, to be looked up"
    )
    parser.add_argument(
        "--only",
        metavar="CHECK",
        action="append",
        default=[],
        help="run only this check (may be repeated); docs/doctor.md has the names",
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        default=60,
        help="how long to wait until Postfix has delivered the test mail (default: 60)",
    )
    parser.add_argument(
        "--postfix-config",
        metavar="DIR",
        help="Postfix's configuration directory, if it is not /etc/postfix",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 3600:
        raise UsageError("--wait takes a number of seconds from 1 to 3600")
    return int(text)


def doctor(context: Context) -> int:
    """See the module's docstring."""
    from mailseal.admin.doctor.check import results
    from mailseal.admin.doctor.registry import CHECKS
    from mailseal.admin.doctor.site import Site

    if os.geteuid() != 0:
        raise NotPermitted("doctor must run as root: only root can read Dovecot's settings")
    arguments = context.arguments
    if (arguments.add is None) != (arguments.remove is None):
        raise UsageError("--add and --remove must be used together")
    if arguments.add is not None and not arguments.user:
        raise UsageError("--add needs USER, the address of the user that it makes")
    chosen = _chosen(CHECKS, arguments.only, arguments.user)
    shown = _List(as_json=arguments.json)
    with contextlib.ExitStack() as stack:
        site = Site(context, _trial(context, stack) if arguments.user else None)
        for one in chosen:
            if site.trial is not None or not one.of_user:
                shown.begin(one.name)
                for result in results(one, site):
                    shown.add(result)
    if site.trial is None and not arguments.only:
        shown.add(_not_proved())
    return shown.end()


def _chosen(all_checks: tuple[Check, ...], only: list[str], user: str | None) -> list[Check]:
    names = [one.name for one in all_checks]
    for name in only:
        if name not in names:
            raise UsageError(f"there is no check {name}", hint=f"the checks are {', '.join(names)}")
    chosen = [one for one in all_checks if not only or one.name in only]
    if only and not user and any(one.of_user for one in chosen):
        raise UsageError("this check needs USER, an enrolled user for test logins")
    return chosen


def _trial(context: Context, stack: contextlib.ExitStack) -> Trial:
    """The user for test logins: made for this run, or the password is asked for."""
    from mailseal.admin.doctor import throw_away
    from mailseal.admin.doctor.trial import Trial
    from mailseal.admin.prompt import Passwords
    from mailseal.login.hardening import forbid_dumps

    forbid_dumps(new_privileges=True)  # Postfix's postdrop is setgid
    arguments = context.arguments
    user = arguments.user
    if arguments.add is not None:
        password = stack.enter_context(
            throw_away.made(context, user, arguments.add, arguments.remove)
        )
    else:
        password = Passwords(from_stdin=arguments.stdin).ask(f"password of {user}")
    return stack.enter_context(Trial(context, user, password))


def _not_proved() -> Result:
    from mailseal.admin.doctor.check import Result

    return Result(
        "test-login",
        "warn",
        "no USER was given: whether logins get their keys, and whether new mail arrives sealed, "
        "was not proved",
        "run `mailseal doctor USER` with an enrolled user, or with --add and --remove, if you have "
        "commands that make and remove users in your user database",
    )


def _text(result: Result) -> str:
    word = result.level if result.level == "pass" else result.level.upper()
    lines = [f"{word:4}  {result.check}: {result.text}"]
    if result.remedy:
        lines.append(f"      remedy: {result.remedy}")
    return "".join(f"{_printable(line)}\n" for line in lines)


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in line)


class _List:
    """The results: printed at once for people, or at the end as JSON.

    On a terminal, the name of the check that runs now is in the last line.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._with_progress = not as_json and sys.stderr.isatty()
        self._found: list[Result] = []

    def begin(self, name: str) -> None:
        """This check runs now."""
        self._progress(f"\r{'':{_WIDTH}}\rchecking {name} …")

    def add(self, result: Result) -> None:
        """Print one result."""
        self._found.append(result)
        if not self._as_json:
            self._progress(f"\r{'':{_WIDTH}}\r")
            sys.stdout.write(_text(result))
            sys.stdout.flush()

    def end(self) -> int:
        """Print the numbers; returns the exit status."""
        from mailseal.admin.doctor.check import LEVELS, counted

        self._progress(f"\r{'':{_WIDTH}}\r")
        levels = Counter(result.level for result in self._found)
        status = max((LEVELS.index(level) for level in levels), default=0)
        if self._as_json:
            listed = [dataclasses.asdict(result) for result in self._found]
            json.dump({"status": LEVELS[status], "results": listed}, sys.stdout, indent=1)
            sys.stdout.write("\n")
        else:
            sys.stdout.write(
                f"{levels['pass']} passed, {counted(levels['warn'], 'warning')}, "
                f"{levels['fail']} failed\n"
            )
        return status

    def _progress(self, text: str) -> None:
        if self._with_progress:
            sys.stderr.write(text)
            sys.stderr.flush()
