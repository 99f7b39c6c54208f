# SPDX-License-Identifier: MIT
"""End sessions, turn encryption off, and cancel that."""

from __future__ import annotations

from mailseal.errors import MailsealError
from mailseal.web.visit import Answer, Visit, ask_with_password


def end_sessions(visit: Visit) -> Answer:
    """End sessions of mail programs, of the key agent and of the page."""
    state = visit.state()
    warning, status = "", 200
    if visit.posted():
        user = state["user"]
        try:
            visit.agent.ask("end_sessions", user, password=visit.field("password"))
            visit.site.sessions.end_all(user)
            visit.session = None
            return visit.show("ended.html")
        except MailsealError as exc:
            warning, status = visit.why(exc), 403
    return visit.show("sessions.html", status=status, warning=warning, state=state)


def turn_off(visit: Visit) -> Answer:
    """All mail is stored in clear, then the keys are removed."""
    state = visit.state()
    if not state["enrolled"]:
        return visit.go("/")
    warning, status = "", 200
    if visit.posted():
        try:
            if not visit.field("clear"):
                warning, status = visit.say("Confirm each point: tick all boxes."), 403
            else:
                visit.agent.ask("leave", state["user"], password=visit.field("password"))
                text = visit.say("Your mail is being stored in clear. Then encryption is off.")
                return visit.go("/", text)
        except MailsealError as exc:
            warning, status = visit.why(exc), 403
    return visit.show("turn_off.html", status=status, warning=warning, state=state)


def stay(visit: Visit) -> Answer:
    """Encryption stays on, and mail that was stored in clear is sealed again."""
    return ask_with_password(visit, "stay", "stay.html", visit.say("Encryption stays on."))
