# SPDX-License-Identifier: MIT
"""Turn encryption on: consequences, a recovery code, and a part of the code typed by the user.

Nothing is stored before the last step: see login/newcomers.py.
"""

from __future__ import annotations

from mailseal.errors import MailsealError
from mailseal.web.views import typed_back
from mailseal.web.visit import Answer, Visit, ask_with_password

CONSEQUENCES = ("forget", "keep", "clients")
"""The checkboxes that must be ticked."""


def explain(visit: Visit) -> Answer:
    """The consequences, then the recovery code, which is shown once."""
    state = visit.state()
    if state["enrolled"]:
        return visit.go("/")
    warning, confirmed, status = "", set[str](), 200
    if visit.posted():
        confirmed = {name for name in (*CONSEQUENCES, "old_mail") if visit.field(name)}
        try:
            if not confirmed.issuperset(CONSEQUENCES):
                warning = visit.say("Confirm each point: tick all boxes.")
            else:
                return _code(visit, state["user"], old_mail="old_mail" in confirmed)
        except MailsealError as exc:
            warning = visit.why(exc)
        status = 403
    return visit.show(
        "turn_on.html", status=status, state=state, warning=warning, confirmed=confirmed
    )


def _code(visit: Visit, user: str, *, old_mail: bool) -> Answer:
    password = visit.field("password")
    answer = visit.agent.ask("enroll_begin", user, password=password)
    return visit.show(
        "code.html",
        code=answer.text("code"),
        first=True,
        old_mail="1" if old_mail else "",
    )


def confirm(visit: Visit) -> Answer:
    """The user types two groups of the code and the password; then encryption is on."""
    done = visit.say("Encryption is on. New mail is stored encrypted.")
    step = typed_back.Step("begun", "enroll_finish", "/turn-on", "/turn-on/confirm", done)
    return typed_back.ask(visit, step, **({"old_mail": "1"} if visit.field("old_mail") else {}))


def old_mail(visit: Visit) -> Answer:
    """Seal older mail, if this was not chosen at first."""
    done = visit.say("Your older mail is being encrypted.")
    return ask_with_password(visit, "seal_old", "old_mail.html", done)
