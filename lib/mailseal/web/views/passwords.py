# SPDX-License-Identifier: MIT
"""Change the password, or set a new one with the recovery code."""

from __future__ import annotations

from mailseal.errors import MailsealError, NotPermitted, UsageError
from mailseal.keys.names import normalise
from mailseal.web import password_change
from mailseal.web.visit import Answer, Visit


def _new(visit: Visit) -> str:
    """The new password, which must be typed twice.  Raises UsageError."""
    if visit.field("new") != visit.field("again"):
        raise UsageError("the new passwords differ")
    return visit.field("new")


def change(visit: Visit) -> Answer:
    """Change it in the keyring and in the user database."""
    state = visit.state()
    if not visit.site.changes_passwords:
        return visit.go("/")
    warning, status = "", 200
    if visit.posted():
        try:
            new = _new(visit)
            password_change.change(visit, state, visit.field("password"), new)
            # Somebody else may have known the old one.
            visit.site.sessions.end_all(state["user"], but=visit.cookie)
            return visit.go("/", visit.say("Your password has changed. Use it in all programs."))
        except MailsealError as exc:
            warning, status = _why(visit, exc), 403
    return visit.show("password.html", status=status, warning=warning)


def reset(visit: Visit) -> Answer:
    """For users who have forgotten it; without a session."""
    warning, status, name = "", 200, ""
    if visit.posted():
        name = visit.field("user").strip()
        try:
            user = normalise(name)
            if visit.vouched_user not in (None, user):
                raise NotPermitted("another user than the web server has checked")
            password_change.reset(visit, user, visit.field("code"), _new(visit))
            visit.site.sessions.end_all(user)
            visit.session = None
            return visit.show("reset_done.html")
        except MailsealError as exc:
            warning, status = _why(visit, exc), 403
    return visit.show("reset.html", status=status, warning=warning, name=name)


def _why(visit: Visit, exc: MailsealError) -> str:
    if type(exc) is UsageError:
        return visit.say("The two new passwords differ. Type the same one twice.")
    return visit.why(exc)
