# SPDX-License-Identifier: MIT
"""The last step with a recovery code: the user types two groups of it and the password.

The agent keeps what waits for this: see login/typed_back.py.
"""

from __future__ import annotations

import dataclasses

from mailseal.errors import BadPassword, MailsealError, UsageError
from mailseal.web.visit import Answer, Visit


@dataclasses.dataclass(frozen=True)
class Step:
    """What is different: verbs of the agent, addresses, and the text at the end."""

    begun: str
    finish: str
    first: str
    path: str
    done: str


def ask(visit: Visit, step: Step, **more: str) -> Answer:
    """Show the form, and send what was typed to the agent, with the fields `more`.

    Each is a field of the form too.
    """
    session = visit.signed_in()
    if not visit.posted():
        return visit.go(step.first)
    token, user = session.token, session.user
    asked = visit.agent.ask(step.begun, user, token=token).text("asked").split()
    if not asked:
        return visit.go(step.first, visit.say("It took too long. Please begin again."))
    warning, status = "", 200
    if visit.field("step") == "confirm":
        typed = " ".join(visit.field(f"group{number}").strip() for number in asked)
        fields = {"password": visit.field("password"), "typed": typed, **more}
        try:
            visit.agent.ask(step.finish, user, **fields)
            return visit.go("/", step.done)
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
        if not visit.agent.ask(step.begun, user, token=token).text("asked"):
            return visit.go(step.first, visit.say("It was wrong too often. Please begin again."))
    return visit.show(
        "confirm.html", status=status, asked=asked, warning=warning, step=step, more=more
    )
