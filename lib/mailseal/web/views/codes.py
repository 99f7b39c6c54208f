# SPDX-License-Identifier: MIT
"""Recovery codes, app passwords, and the user's own key."""

from __future__ import annotations

import re

from mailseal.errors import MailsealError
from mailseal.keys import codes
from mailseal.login.client import Answer as AgentAnswer
from mailseal.web.agent import State
from mailseal.web.views import typed_back
from mailseal.web.visit import Answer, BadForm, Visit, ask_with_password


def recovery_code(visit: Visit) -> Answer:
    """A new recovery code.  The older one is valid until a part of the new one was typed back."""

    def made(answer: AgentAnswer, state: State) -> Answer:
        code, older = answer.text("code"), state["second_way"]
        return visit.show("code.html", code=code, first=False, older=older)

    return ask_with_password(visit, "code_begin", "recovery_code.html", made)


def confirm(visit: Visit) -> Answer:
    """Two groups of the new code, and the password."""
    done = visit.say("Your new recovery code is valid. Throw away any older one.")
    path = "/recovery-code"
    step = typed_back.Step("code_begun", "code_finish", path, f"{path}/confirm", done)
    return typed_back.ask(visit, step)


def code_as_file(visit: Visit) -> Answer:
    """Download the code of the previous page, which sends it back."""
    session = visit.signed_in()
    if not visit.posted():
        return visit.go("/")
    code = visit.field("code")
    if codes.read("recovery", code.encode("utf-8", "replace")) is None:
        raise BadForm
    lines = [
        visit.say("Recovery code for the encrypted mail of {user}", user=session.user),
        "",
        code,
        "",
        visit.say(
            "With this code you can set a new password if you have forgotten yours. Whoever has it "
            "can read your mail: keep it where nobody else can find it, and not on the mail server."
        ),
    ]
    return visit.download("recovery-code.txt", "\n".join(lines) + "\n")


def app_passwords(visit: Visit) -> Answer:
    """The list of app passwords, and a form for a new one."""
    state = visit.state()
    if not state["enrolled"]:
        return visit.go("/")
    warning, status, label = "", 200, ""
    if visit.posted():
        label = visit.field("label").strip()
        try:
            answer = visit.agent.ask(
                "app", state["user"], password=visit.field("password"), label=label
            )
            return visit.show("app_password.html", code=answer.text("code"), label=label)
        except MailsealError as exc:
            warning, status = visit.why(exc), 403
    return visit.show(
        "app_passwords.html", status=status, warning=warning, state=state, label=label
    )


def revoke(visit: Visit) -> Answer:
    """Remove an app password."""
    state = visit.state()
    slot = visit.query("slot") if not visit.is_post else visit.field("slot")
    way = next(
        (w for w in state.get("ways_in", ()) if w["id"] == slot and w["kind"] == "app"), None
    )
    warning, status = "", 200
    if visit.posted() and way is not None:
        try:
            password = visit.field("password")
            visit.agent.ask("revoke", state["user"], slot=slot, password=password)
            return visit.go("/app-passwords", visit.say("The app password does not work any more."))
        except MailsealError as exc:
            warning, status = visit.why(exc), 403
    if way is None:
        return visit.go("/app-passwords")
    return visit.show("revoke.html", status=status, warning=warning, way=way)


def own_key(visit: Visit) -> Answer:
    """The private keys, as from `mailseal export-key USER --format dovecot`."""
    state = visit.state()
    if not state["enrolled"]:
        return visit.go("/")
    warning, status = "", 200
    if visit.posted():
        try:
            answer = visit.agent.ask("own_keys", state["user"], password=visit.field("password"))
            name = re.sub(r"[^a-z0-9.@_-]", "_", state["user"])
            return visit.download(f"mail-key-{name}.txt", answer.text("keys") + "\n")
        except MailsealError as exc:
            warning, status = visit.why(exc), 403
    return visit.show("key.html", status=status, warning=warning)
