# SPDX-License-Identifier: MIT
"""mailseal setup: sets mailseal up on the running Postfix and Dovecot.

Without --apply and --undo nothing is changed: the files and commands are printed.

Exit status: 0; 2 if mailseal cannot be set up on this mail server.

FAILURES
    NotPermitted: not root.  ConfigError, TemporaryError: a step failed; everything is as before.
    Conflict: --undo, but somebody has changed the same lines.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from mailseal.errors import Conflict, NotPermitted, TemporaryError, UsageError

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context
    from mailseal.admin.setup.changes import Journal
    from mailseal.admin.setup.plan import Plan

_CANNOT = 2

_OF_SITE = (
    *("version", "mechanisms", "login-encryption", "passwords-in-logs", "debug-logs", "auth-cache"),
    *("swap", "queue-disk", "clock", "space", "recovery", "stored-mail", "old-caches"),
)
"""Checks of doctor that say what was so before, too: setup is not undone because of them."""


def register(commands: Commands) -> None:
    """Add this module's command."""
    parser = commands.add(
        "setup",
        setup,
        "print what to change in Dovecot and Postfix on this machine, and why; or change it",
        group="operation",
        example="mailseal setup --apply",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--apply",
        action="store_true",
        help="change it, check it with doctor, and change everything back if a step fails",
    )
    what.add_argument(
        "--undo", action="store_true", help="change everything back that --apply has changed"
    )
    parser.add_argument(
        "--user",
        metavar="ADDRESS",
        help="look up this user's mail location and owner, and not those of the first user in the "
        "user database",
    )
    parser.add_argument(
        "--test-user",
        metavar="ADDRESS",
        help="with --apply: make this user for test logins and a test mail, with --add and "
        "--remove, as in mailseal doctor",
    )
    parser.add_argument(
        "--add", metavar="COMMAND", help="makes the test user; reads the password as one line"
    )
    parser.add_argument("--remove", metavar="COMMAND", help="removes the test user")
    parser.add_argument(
        "--although-enrolled",
        action="store_true",
        help="with --undo: also if users are enrolled, whose sealed mail nobody can read then",
    )
    parser.add_argument(
        "--postfix-config",
        metavar="DIR",
        help="Postfix's configuration directory, if it is not /etc/postfix",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def setup(context: Context) -> int:
    """See the module's docstring."""
    from mailseal.admin.setup.changes import Journal
    from mailseal.admin.setup.options import folder_of

    if os.geteuid() != 0:
        raise NotPermitted("setup must run as root: it reads and changes Dovecot's settings")
    arguments = context.arguments
    tests = (arguments.test_user, arguments.add, arguments.remove)
    if any(tests) and not all(tests):
        raise UsageError("--test-user, --add and --remove must be used together")
    journal = Journal(folder_of(context.config_path))
    if not arguments.apply and not arguments.undo:
        journal.load()
        if journal.state is not None:
            return _set_up_already(journal, as_json=arguments.json)
        return _print(_plan(context), as_json=arguments.json)
    with journal.locked():
        return _undo(context, journal) if arguments.undo else _apply(context, journal)


def _plan(context: Context) -> Plan:
    from mailseal.admin.setup import plan

    arguments = context.arguments
    return plan.make(
        context.config_path,
        user=arguments.user,
        postfix_config=arguments.postfix_config,
    )


def _print(plan: Plan, *, as_json: bool) -> int:
    from mailseal.admin.setup import report

    if as_json:
        _write_json({"state": "planned" if not plan.cannot else "refused", **plan.as_json()})
    else:
        sys.stdout.write(report.of(plan))
        report.refusals(plan)
    return _CANNOT if plan.cannot else 0


def _write_json(fields: dict[str, Any]) -> None:
    json.dump(fields, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _set_up_already(journal: Journal, *, as_json: bool) -> int:
    """What is there, and whether it was changed since."""
    from mailseal.admin.setup.changes import APPLIED

    states = {entry.path: entry.state() for entry in journal.entries()}
    if as_json:
        _write_json({"state": journal.state, "files": states})
        return 0
    if journal.state != APPLIED:
        raise _interrupted()
    sys.stdout.write("mailseal is set up already; nothing was changed\n")
    for path, state in states.items():
        if state != "after":
            sys.stdout.write(f"  {path} was changed since\n")
    sys.stdout.write("`mailseal doctor` checks it, `mailseal setup --undo` changes it back\n")
    return 0


def _interrupted() -> TemporaryError:
    return TemporaryError(
        "an earlier `mailseal setup` was interrupted",
        hint="run `mailseal setup --undo`, which changes everything back; then run it again",
    )


def _apply(context: Context, journal: Journal) -> int:
    from mailseal.admin.setup import flow, report
    from mailseal.admin.setup.changes import APPLIED

    as_json = context.arguments.json
    if journal.state == APPLIED:
        return _set_up_already(journal, as_json=as_json)
    if journal.state is not None:
        raise _interrupted()
    plan = _plan(context)
    if plan.cannot:
        return _print(plan, as_json=as_json)
    say = _silent if as_json else _say
    flow.apply(plan, journal, context.config_path, lambda: _prove(context, plan, say), say)
    if as_json:
        _write_json({"state": APPLIED, **plan.as_json()})
    else:
        sys.stdout.write(report.afterwards(plan, proved=bool(context.arguments.test_user)))
    return 0


def _undo(context: Context, journal: Journal) -> int:
    from mailseal.admin.doctor.check import counted
    from mailseal.admin.setup import flow
    from mailseal.admin.setup.changes import APPLIED

    as_json = context.arguments.json
    if journal.state is None:
        sys.stdout.write('{"state": null}\n' if as_json else "there is nothing to undo\n")
        return 0
    number = flow.enrolled(context.config_path)
    if number and journal.state == APPLIED and not context.arguments.although_enrolled:
        raise Conflict(
            f"{counted(number, 'enrolled user')}: without mailseal nobody can read sealed mail",
            hint="see docs/leaving.md; --although-enrolled undoes it anyway, and keeps the keys",
        )
    flow.undo(journal, _silent if as_json else _say)
    sys.stdout.write('{"state": null}\n' if as_json else "everything is as before\n")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _silent(_: str) -> None:
    pass


def _prove(context: Context, plan: Plan, say: Any) -> None:
    """doctor: its own checks, and the test logins if there is a test user."""
    import contextlib

    from mailseal.admin.command import Context
    from mailseal.admin.doctor import throw_away
    from mailseal.admin.doctor.check import results
    from mailseal.admin.doctor.registry import CHECKS
    from mailseal.admin.doctor.site import Site
    from mailseal.admin.doctor.trial import Trial
    from mailseal.keys.names import normalise
    from mailseal.keys.public import PublicStore
    from mailseal.login.hardening import forbid_dumps

    arguments = context.arguments
    say("proves with doctor that it works")
    asked = argparse.Namespace(
        config=context.config_path,
        plain_user=None,
        postfix_config=arguments.postfix_config,
        wait=60,
    )
    fresh = Context(asked)
    if not PublicStore(fresh.config.public_dir).has_file(normalise(plan.stack.user.encode())):
        asked.plain_user = plan.stack.user
    with contextlib.ExitStack() as stack:
        trial = None
        if arguments.test_user:
            forbid_dumps(new_privileges=True)  # Postfix's postdrop is setgid
            password = stack.enter_context(
                throw_away.made(fresh, arguments.test_user, arguments.add, arguments.remove)
            )
            trial = stack.enter_context(Trial(fresh, arguments.test_user, password))
        site = Site(fresh, trial)
        for check in CHECKS:
            if trial is None and check.of_user:
                continue
            for result in results(check, site):
                if result.level != "pass":
                    say(f"  {result.level}: {result.check}: {result.text}")
                if result.level == "fail" and check.name not in _OF_SITE:
                    raise TemporaryError(
                        f"doctor: {result.check}: {result.text}", hint=result.remedy or None
                    )
