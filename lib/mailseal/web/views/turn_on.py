# SPDX-License-Identifier: MIT
"""Turn encryption on: consequences, a recovery code, and a part of the code typed by the user.

Nothing is stored before the last step: see login/newcomers.py.
"""

from __future__ import annotations

from mailseal.errors import BadPassword, MailsealError, UsageError
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
    session = visit.signed_in()
    if not visit.posted():
        return visit.go("/turn-on")
    token, user = session.token, session.user
    asked = visit.agent.ask("begun", user, token=token).text("asked").split()
    if not asked:
        return visit.go("/turn-on", visit.say("It took too long. Please begin again."))
    warning, status = "", 200
    if visit.field("step") == "confirm":
        typed = " ".join(visit.field(f"group{number}").strip() for number in asked)
        fields = {"password": visit.field("password"), "typed": typed}
        if visit.field("old_mail"):
            fields["old_mail"] = "1"
        try:
            visit.agent.ask("enroll_finish", user, **fields)
            return visit.go("/", visit.say("Encryption is on. New mail is stored encrypted."))
        except BadPassword as exc:
            warning = visit.why(exc)
        except UsageError:
            warning = visit.say(
                "These are not the groups of your recovery code. Look at it again. If you have "
                "not kept it, begin again: you get a new one."
            )
        except MailsealError as exc:
            warning = visit.why(exc)
        status = 403
        if not visit.agent.ask("begun", user, token=token).text("asked"):
            return visit.go("/turn-on", visit.say("It was wrong too often. Please begin again."))
    return visit.show(
        "confirm.html",
        status=status,
        asked=asked,
        warning=warning,
        old_mail=visit.field("old_mail"),
    )


def old_mail(visit: Visit) -> Answer:
    """Seal older mail, if this was not chosen at first."""
    done = visit.say("Your older mail is being encrypted.")
    return ask_with_password(visit, "seal_old", "old_mail.html", done)
