# SPDX-License-Identifier: MIT
"""Sign in and out, overview, statement."""

from __future__ import annotations

from typing import Any

from mailseal.errors import MailsealError, WrongPassword
from mailseal.keys.names import normalise
from mailseal.web import words
from mailseal.web.visit import BY_ITSELF, Answer, Visit
from mailseal.web.words import N_

_RELOAD = 5
_GOING_ON = ("waiting", "sealing", "unsealing")


def overview(visit: Visit) -> Answer:
    """The complete state of the user, with links to all actions."""
    state = visit.state()
    old_mail = state["old_mail"]
    phase = "" if old_mail is None else old_mail["phase"]
    wanted = state["old_mail_wanted"] or state["old_mail_at_enrollment"]
    if state["enrolled"] and wanted and phase in ("", "off"):
        phase, old_mail = "waiting", None  # the record is from an earlier enrollment
    goes_on = state["leaving"] or (state["enrolled"] and phase in _GOING_ON)
    still = visit.query("still") == "1"
    answer = visit.show(
        "overview.html",
        state=state,
        phase=phase,
        progress=progress(visit, old_mail),
        goes_on=goes_on,
        still=still,
        reload=_RELOAD,
    )
    if goes_on and not still:
        # Not a <meta>, which could not be turned off.
        answer.headers["Refresh"] = f"{_RELOAD}; url={visit.site.prefix}/?{BY_ITSELF}=1"
    return answer


def progress(visit: Visit, job: dict[str, Any] | None) -> dict[str, Any]:
    """Numbers and texts for a progress bar."""
    if job is None:
        return {"done": 0, "total": 0, "text": ""}
    done, total, seconds = job["done"], job["total"], job["seconds_left"]
    text = ""
    if total:
        shown = (words.number(visit.language, done), words.number(visit.language, total))
        text = visit.say("{done} of {total} mails", done=shown[0], total=shown[1])
    if seconds is not None:
        minutes = -(-seconds // 60)
        left = visit.say("less than a minute left")
        if minutes > 1:
            left = visit.say("about {minutes} minutes left", minutes=minutes)
        text = f"{text}, {left}"
    return {"done": min(done, total), "total": total, "text": text}


def ask_to_sign_in(visit: Visit, *, status: int = 200, warning: str = "", name: str = "") -> Answer:
    """The form."""
    if visit.by_itself and not warning:
        warning = visit.say(
            "You were signed out, because you have not used this page for a while. What was going "
            "on continues."
        )
    return visit.show("sign_in.html", status=status, warning=warning, name=name)


def sign_in(visit: Visit) -> Answer:
    """With the mail password."""
    if not visit.posted():
        return visit.go("/")
    name = visit.field("user").strip()
    try:
        user = normalise(name)
        if visit.vouched_user not in (None, user):
            raise WrongPassword("another user than the web server has checked")
        token, _ = visit.agent.sign_in(user, visit.field("password"))
    except MailsealError as exc:
        return ask_to_sign_in(visit, status=403, warning=visit.why(exc), name=name)
    visit.site.sessions.end(visit.cookie)
    visit.cookie = visit.site.sessions.start(user, token)
    return visit.go("/")


def sign_out(visit: Visit) -> Answer:
    """End this session; nothing is wrong if it has ended already."""
    if visit.session is not None and visit.posted():
        visit.site.sessions.end(visit.cookie)
    return visit.go("/")


def statement(visit: Visit) -> Answer:
    """A file with all stored data about the user."""
    state = visit.state()
    lines = [
        visit.say("What {name} stores about the encryption of your mail", name=_name(visit)),
        "",
        visit.say("User: {user}", user=state["user"]),
    ]
    if not state["enrolled"]:
        lines.append(visit.say("Encryption is off. No keys are stored."))
        return visit.download("statement.txt", "\n".join(lines) + "\n")
    since, pairs = words.day(visit.language, state["since"]), state["key_pairs"]
    lines += [
        visit.say("Encryption has been on since {day}.", day=since),
        visit.say("Key pairs: {number}. Key id: {id}", number=pairs, id=state["key_id"]),
        "",
        visit.say("Ways in, each with the day on which it was made:"),
    ]
    for way in state["ways_in"]:
        label = f" “{way['label']}”" if way["label"] else ""
        made = words.day(visit.language, way["created"])
        used = words.day(visit.language, way["used"])
        used = visit.say(", last used {day}", day=used) if used else ""
        lines.append(f"- {visit.say(KINDS.get(way['kind'], way['kind']))}{label}, {made}{used}")
    lines += [
        "",
        visit.say(
            "The private key is stored encrypted. It opens with one of the ways above, and with "
            "nothing else. Not encrypted are: names of folders, flags, dates and sizes of mails."
        ),
    ]
    return visit.download("statement.txt", "\n".join(lines) + "\n")


KINDS = {
    "login": N_("password"),
    "app": N_("app password"),
    "recovery": N_("recovery code"),
    "escrow": N_("key of the organisation"),
}


def _name(visit: Visit) -> str:
    return visit.site.config.web.name
