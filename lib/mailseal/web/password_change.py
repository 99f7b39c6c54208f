# SPDX-License-Identifier: MIT
"""Sets a new password in the keyring and the user database, like `mailseal passwd USER --then`.

CONTRACT
    web.password_command gets the user as its last argument and the new password as a line on
    standard input.  Until it has ended, both passwords open the keyring: see
    admin/two_places.py.  If this process is killed in between, the next login decides.

FAILURES
    Errors of two_places.py and of the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailseal.admin import two_places
from mailseal.errors import BadUserName, NotEnrolled, NotPermitted, WrongPassword
from mailseal.keys.password_slot import check_password

if TYPE_CHECKING:
    from mailseal.web.agent import Agent, State
    from mailseal.web.visit import Visit


def change(visit: Visit, state: State, old: str, new: str) -> None:
    """Change it with the old password."""
    user, command = state["user"], _command(visit, state["user"])
    check_password(new.encode())
    if not state["enrolled"]:
        visit.agent.sign_in(user, old)  # Dovecot checks it
        two_places.set_elsewhere(command, new.encode(), lambda end: None)
        _if_enrolled_meanwhile(visit.agent, user, old, new)
    elif not command:
        visit.agent.ask("passwd", user, old=old, new=new)
    else:
        answer = visit.agent.ask("passwd", user, old=old, new=new, keep_old="1")
        _finish(visit.agent, user, command, new, answer.text("change"))


def reset(visit: Visit, user: str, code: str, new: str) -> None:
    """Change it with the recovery code.

    If the page cannot change the user database, the postmaster has set a new password there;
    then it is set in the keyring too, unless Dovecot refuses it.
    """
    check_password(new.encode())
    if not visit.site.changes_passwords:
        visit.agent.ask("reset", user, secret=code, new=new)
        return
    command = _command(visit, user)
    if not command:
        visit.agent.ask("recover", user, code=code, new=new)
        return
    answer = visit.agent.ask("recover", user, code=code, new=new, keep_old="1")
    _finish(visit.agent, user, command, new, answer.text("change"))


def _if_enrolled_meanwhile(agent: Agent, user: str, old: str, new: str) -> None:
    """In another tab, with the old password: the keyring would not open with the new one."""
    try:
        agent.ask("status", user)
    except NotEnrolled:
        return
    try:
        agent.ask("passwd", user, old=old, new=new)
    except WrongPassword:
        agent.sign_in(user, new)  # or with the new one


def _command(visit: Visit, user: str) -> list[str]:
    if not visit.site.changes_passwords:
        raise NotPermitted("passwords cannot be changed here")
    if user.startswith("-"):
        raise BadUserName("the command would take this name for an option")
    command = visit.site.config.web.password_command
    return [*command, user] if command else []


def _finish(agent: Agent, user: str, command: list[str], new: str, change: str) -> None:
    def end(verb: str) -> None:
        agent.ask(verb, user, change=change)

    two_places.set_elsewhere(command, new.encode(), end)
