# SPDX-License-Identifier: MIT
"""What `mailseal setup` prints for people."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator

from mailseal.admin.setup.flow import undo_commands
from mailseal.admin.setup.plan import Plan, diff


def of(plan: Plan) -> str:
    """What was found, what to change and why, and the commands."""
    lines = ["This mail server:", *_found(plan)]
    if not plan.cannot:
        lines += ["", *_files(plan), *_commands(plan), *_afterwards()]
    return "".join(f"{line}\n" for line in lines)


def refusals(plan: Plan) -> None:
    """Why mailseal cannot be set up, to standard error."""
    if plan.cannot:
        sys.stderr.write(
            "mailseal: error: mailseal cannot be set up on this mail server as it is; nothing was "
            "changed\n"
        )
    for reason in plan.cannot:
        sys.stderr.write(f"mailseal: hint: {reason}\n")


def afterwards(plan: Plan, *, proved: bool) -> str:
    """After --apply."""
    lines = ["mailseal is set up; `mailseal setup --undo` changes everything back.", *_notes(plan)]
    if not proved:
        lines.append(
            "No test login was made: run `mailseal doctor USER` after the first user is enrolled."
        )
    return "".join(f"{line}\n" for line in [*lines, *_afterwards()])


def _found(plan: Plan) -> Iterator[str]:
    stack = plan.stack
    yield f"  Dovecot {stack.series}, {stack.conf}"
    checks = ", ".join(block.driver for block in stack.passdbs) or "nothing"
    knows = ", ".join(block.driver for block in stack.userdbs) or "nothing"
    yield f"  passwords are checked by {checks}; users are known to {knows}"
    if stack.maildir:
        owner = f"{stack.owner}:{stack.group}" if stack.owner else "each user"
        yield f"  mail of {stack.user} is in {stack.maildir}; it belongs to {owner}"
    scripts = "for all users" if stack.site_sieve else stack.sieve_script or "not loaded"
    yield f"  Sieve: {scripts}; quota: {stack.quota or 'not loaded'}"
    if plan.postfix is not None and plan.postfix.setting:
        yield f"  Postfix: {plan.postfix.setting} = {plan.postfix.before or '(not set)'}"


def _files(plan: Plan) -> Iterator[str]:
    yield "These files are changed:"
    for change in plan.changes:
        yield ""
        yield f"{change.path}{' (new)' if change.before is None else ''}"
        yield from textwrap.wrap(change.why, 90, initial_indent="  ", subsequent_indent="  ")
        yield from (f"    {line}" for line in diff(change).splitlines()[2:])


def _commands(plan: Plan) -> Iterator[str]:
    yield ""
    yield "`mailseal setup --apply` does all of this, checks it, and undoes it if a step fails. By"
    yield "hand, after the files are changed:"
    yield ""
    for command in plan.commands:
        yield f"    {command.line:50} # {command.why}"
    yield ""
    yield "To undo it: `mailseal setup --undo`. By hand, after the files are as before:"
    yield ""
    yield from (f"    {line}" for line in undo_commands(plan.commands))
    yield from _notes(plan)


def _notes(plan: Plan) -> Iterator[str]:
    if plan.notes:
        yield ""
    for note in plan.notes:
        yield from textwrap.wrap(f"Note: {note}.", 90, subsequent_indent="  ")


def _afterwards() -> list[str]:
    return [
        "",
        "Nothing changes for users who are not enrolled. Step by step:",
        "  1. one user:   mailseal enroll alice@example.org; mailseal doctor alice@example.org",
        "  2. one domain: mailseal enroll --stdin-list < FILE, with the users of the domain",
        "  3. everybody:  the same with all users, or let users enroll themselves (docs/web.md)",
        "docs/setup.md describes each step.",
    ]
