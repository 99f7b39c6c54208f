# SPDX-License-Identifier: MIT
"""Decides what to change on this machine, and why; flow.py does it.

FAILURES
    As stack.py and postfix.py.  What does not fit is in `cannot`: then there are no changes.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pwd
from typing import Any

from mailseal.admin.doctor.postconf import Postconf
from mailseal.admin.setup import dovecot, machine, options, postfix
from mailseal.admin.setup import stack as stacks
from mailseal.admin.setup.changes import Change
from mailseal.errors import MailsealError

UNITS = ("mailseal-agent", "mailseal-lmtp")
_RESTART = "systemctl restart dovecot"


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, as people would type it, and the one that undoes it."""

    line: str
    why: str
    undo: str = ""


@dataclasses.dataclass
class Plan:
    """What to do.  user: a system user that has to be made."""

    stack: stacks.Stack
    postfix: postfix.Postfix | None
    changes: list[Change]
    user: str | None
    cannot: list[str]
    notes: list[str]

    @property
    def commands(self) -> list[Command]:
        """All commands, in the order in which they run; the files are changed in between."""
        found = []
        if self.user:
            found.append(
                Command(
                    "useradd --system --no-create-home --home-dir /nonexistent "
                    f"--shell /usr/sbin/nologin {self.user}",
                    "mailseal-lmtp runs as this user, because each user owns the mail",
                    f"userdel {self.user}",
                )
            )
        found += [
            Command("mailseal init", "makes the folders for keys"),
            Command("systemd-tmpfiles --create mailseal.conf", "makes the folders in memory"),
            Command("mailseal check-config --no-sockets", "must print no error"),
        ]
        for unit in UNITS:
            found.append(
                Command(
                    f"systemctl enable --now {unit}",
                    "starts it, now and when the machine starts",
                    f"systemctl disable --now {unit}",
                )
            )
        found += [
            Command(_RESTART, "reads the new files", _RESTART),
            Command("postfix reload", "reads main.cf and master.cf", "postfix reload"),
        ]
        return found

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "found": self.stack.as_json()
            | {"postfix": self.postfix and {self.postfix.setting: self.postfix.before}},
            "cannot": self.cannot,
            "notes": self.notes,
            "files": [
                {"path": c.path, "new": c.before is None, "why": c.why, "diff": diff(c)}
                for c in self.changes
            ],
            "commands": [dataclasses.asdict(command) for command in self.commands],
        }


def make(config_path: str, *, user: str | None, postfix_config: str | None) -> Plan:
    """Look at the machine and decide."""
    stack = stacks.find(user)
    plan = Plan(stack, None, [], None, list(stack.cannot), [])
    plan.cannot += _programs()
    if plan.cannot:
        return plan
    try:
        postconf = Postconf(postfix_config)
        found = postfix.find(postconf, stack.user, system_users=stack.system_users)
        plan.postfix = found
        plan.cannot += found.cannot
        if plan.cannot:
            return plan
        if not found.lda:
            stack.only_lda = ()
        if stack.system_users and not _is_user(dovecot.RELAY_USER):
            plan.user = dovecot.RELAY_USER
        yaml = options.change(config_path, stack, postconf)
        plan.changes = [*([yaml] if yaml else []), *dovecot.changes(stack), *found.changes]
        plan.changes.sort(key=lambda change: ("mailseal", "dovecot", "postfix").index(change.stage))
    except MailsealError as exc:
        plan.cannot.append(f"{exc}" + (f" ({exc.hint})" if exc.hint else ""))
        plan.changes = []
        return plan
    plan.notes = _notes(plan)
    return plan


def _programs() -> list[str]:
    """mailseal itself must be installed, with systemd."""
    found = []
    if not os.path.isdir("/run/systemd/system"):
        found.append("this machine is not run by systemd: set it up by hand, see docs/install.md")
        return found
    for unit in UNITS:
        if machine.status("systemctl", "cat", unit):
            found.append(f"there is no unit {unit}: install mailseal as in docs/install.md, step 2")
            return found
    if not _is_user("mailseal"):
        found.append("there is no user mailseal: run `systemd-sysusers`")
    return found


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _notes(plan: Plan) -> list[str]:
    stack = plan.stack
    found = []
    mechanisms = set(stack.settings.get("auth_mechanisms").lower().split()) - {"plain", "login"}
    if mechanisms:
        found.append(
            f"Dovecot offers {', '.join(sorted(mechanisms))}: enrolled users can log in with their "
            "password only (plain, login)"
        )
    if stack.site_sieve:
        found.append(
            "there are Sieve scripts for all users, so Dovecot delivers all mail, and seals it "
            "for enrolled users (delivery.sieve: always)"
        )
    elif dovecot.relays_all(stack):
        found.append(
            f"only Dovecot can count the quota ({stack.quota}), so Dovecot delivers all mail, and "
            "seals it for enrolled users (delivery.sieve: always)"
        )
    if stack.only_lda:
        found.append(
            f"protocol lmtp loads what only protocol lda has loaded: {', '.join(stack.only_lda)}"
        )
    found.append("all IMAP and POP3 connections end when Dovecot restarts; clients connect again")
    return found


def diff(change: Change) -> str:
    """As diff(1) -u shows it."""
    before = change.before.data if change.before else b""
    old, new = (
        data.decode("utf-8", "replace").splitlines(keepends=True)
        for data in (before, change.after.data)
    )
    name = "/dev/null" if change.before is None else change.path
    return "".join(difflib.unified_diff(old, new, name, change.path, n=2))
