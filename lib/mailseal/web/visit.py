# SPDX-License-Identifier: MIT
"""One request: user, language, and the responses.

CONTRACT
    A form is valid only if it comes from this page (Origin, Sec-Fetch-Site) and has the token of
    this session for this address.  Secrets are read from the body of a POST, never from an
    address, and are not stored in a session, log or cookie.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from mailseal.config import Config
from mailseal.errors import MailsealError
from mailseal.login.client import Answer as AgentAnswer
from mailseal.login.guesses import place_of
from mailseal.web import words
from mailseal.web.agent import Agent, State
from mailseal.web.sessions import WebSession, WebSessions, new_cookie
from mailseal.web.texts import Texts

COOKIE = "__Host-mailseal"
LANGUAGE_COOKIE = "__Host-mailseal-language"
SIGN_OUT = "/sign-out"
BY_ITSELF = "auto"
"""The parameter in the address with which a page loads itself again."""
_COOKIE_FORM = re.compile(r"[A-Za-z0-9_-]{43}")

Answer = Any
"""The return type of a view."""


class BadForm(Exception):
    """A form that is not from this page, was sent twice, or is too old."""


class SignIn(Exception):
    """Nobody is signed in."""


@dataclasses.dataclass(frozen=True)
class Site:
    """The objects that all requests share."""

    config: Config
    texts: Texts
    sessions: WebSessions
    style: str
    logo: str

    @property
    def prefix(self) -> str:
        """The path of the page, without a slash at the end."""
        return self.config.web.path.rstrip("/")

    @property
    def changes_passwords(self) -> bool:
        """Whether a password can be changed here."""
        keyring = self.config.login.password_check == "keyring"  # noqa: S105 - no password
        return keyring or bool(self.config.web.password_command)


class Visit:
    """One request."""

    def __init__(self, site: Site, request: Any) -> None:
        self.site = site
        self._request = request
        remote = request.headers.get(site.config.web.address_header, "")
        self.agent = Agent(site.config.agent.socket, remote if place_of(remote) is not None else "")
        cookie = request.cookies.get(COOKIE, "")
        self.cookie: str = cookie if _COOKIE_FORM.fullmatch(cookie) else ""
        # The page has loaded itself again: the user may have gone away.
        self.by_itself = request.method == "GET" and request.args.get(BY_ITSELF) == "1"
        self.session: WebSession | None = None
        if self.cookie:
            self.session = site.sessions.find(self.cookie, used=not self.by_itself)
        vouched = self.vouched_user
        if self.session is not None and vouched not in (None, self.session.user):
            site.sessions.end(self.cookie)
            self.session = None
        if not self.cookie:
            self.cookie = new_cookie()
        chosen = request.args.get("language", "") or request.cookies.get(LANGUAGE_COOKIE, "")
        self.chosen = request.args.get("language", "")
        if not site.texts.has(self.chosen):
            self.chosen = ""
        wanted = request.headers.get("Accept-Language", "")
        self.language = chosen if site.texts.has(chosen) else site.texts.choose(wanted)

    @property
    def vouched_user(self) -> str | None:
        """The user that the web server has authenticated; None if it does not."""
        header = self.site.config.web.user_header
        return None if header is None else str(self._request.headers.get(header, "")).lower()

    def say(self, text: str, **values: object) -> str:
        """A text in the user's language."""
        said = self.site.texts.say(self.language, text)
        return said.format(**values) if values else said

    def signed_in(self) -> WebSession:
        """The session.  SignIn if there is none."""
        if self.session is None:
            raise SignIn
        return self.session

    def state(self) -> State:
        """The state of the signed-in user."""
        session = self.signed_in()
        return self.agent.state(session.user, session.token)

    def posted(self) -> bool:
        """Whether a form was sent; BadForm if it is not valid."""
        request = self._request
        if request.method != "POST":
            return False
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        origin = request.headers.get("Origin")
        if site != "same-origin" or (origin and origin.partition("://")[2] != request.host):
            raise BadForm
        token = request.form.get("form", "")
        if not self.site.sessions.take_form(self.session, self.cookie, request.path, token):
            raise BadForm
        return True

    @property
    def is_post(self) -> bool:
        """Whether a form was sent, valid or not."""
        return bool(self._request.method == "POST")

    def query(self, name: str) -> str:
        """A parameter in the address; never a secret."""
        return str(self._request.args.get(name, ""))[:64]

    def field(self, name: str) -> str:
        """A field of the form, as it was typed."""
        return str(self._request.form.get(name, ""))

    def form(self, path: str) -> str:
        """A token for a form that is sent to this path of the page."""
        sessions, whole = self.site.sessions, self.site.prefix + path
        return sessions.new_form(self.session, self.cookie, whole, shared=path == SIGN_OUT)

    def show(self, template: str, *, status: int = 200, **values: Any) -> Answer:
        """A page."""
        from flask import make_response, render_template

        session = self.session
        notice, warning = "", values.pop("warning", "")
        if session is not None:
            notice, session.notice = session.notice, ""
        values = {
            "site": self.site,
            "config": self.site.config.web,
            "prefix": self.site.prefix,
            "user": session.user if session is not None else None,
            "notice": notice,
            "warning": warning,
            "language": self.language,
            "path": self._request.path,
            "_": self.say,
            "day": lambda seconds: words.day(self.language, seconds),
            "number": lambda number: words.number(self.language, number),
            "form_token": self.form,
            **values,
        }
        return make_response(render_template(template, **values), status)

    def go(self, path: str, notice: str = "") -> Answer:
        """Redirect to another page, so that a reload does not send the form again."""
        from flask import redirect

        if notice and self.session is not None:
            self.session.notice = notice
        return redirect(self.site.prefix + path, 303)

    def download(self, name: str, text: str) -> Answer:
        """A file."""
        from flask import make_response

        answer = make_response(text)
        answer.headers["Content-Type"] = "text/plain; charset=utf-8"
        answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return answer

    def why(self, exc: MailsealError) -> str:
        """An error page."""
        return self.say(words.of_error(exc))


def ask_with_password(
    visit: Visit, verb: str, template: str, then: str | Callable[[AgentAnswer, State], Answer]
) -> Answer:
    """A page whose form has only the password: ask the agent; then `then` is shown on the overview,
    or makes the next page of the agent's answer.

    For users who are enrolled.
    """
    state = visit.state()
    if not state["enrolled"]:
        return visit.go("/")
    warning, status = "", 200
    if visit.posted():
        try:
            answer = visit.agent.ask(verb, state["user"], password=visit.field("password"))
            return visit.go("/", then) if isinstance(then, str) else then(answer, state)
        except MailsealError as exc:
            warning, status = visit.why(exc), 403
    return visit.show(template, status=status, warning=warning, state=state)
