# SPDX-License-Identifier: MIT
"""The application: addresses, headers, and errors.

CONTRACT
    All responses forbid scripts, frames and foreign content, and no page may be stored.
    Unexpected errors are logged with class and line, but without their text, which could
    contain typed secrets.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import traceback
from collections.abc import Callable
from typing import Any

from mailseal.config import Config
from mailseal.errors import ConfigError, MailsealError, NotPermitted
from mailseal.logs import ERROR, INFO, Log
from mailseal.web import api
from mailseal.web.sessions import WebSessions
from mailseal.web.texts import Texts
from mailseal.web.views import codes, leave, passwords, start, turn_on
from mailseal.web.visit import COOKIE, LANGUAGE_COOKIE, SIGN_OUT, BadForm, SignIn, Site, Visit

MAX_BODY = 16384
"""Largest body of a request in bytes: a form has at most two passwords and a code."""

_POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Not no-referrer: then browsers send "Origin: null" with the page's own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_MAX_THEME = 1 << 17

View = Callable[[Visit], Any]

VIEWS: dict[str, View] = {
    "/": start.overview,
    "/sign-in": start.sign_in,
    SIGN_OUT: start.sign_out,
    "/statement": start.statement,
    "/turn-on": turn_on.explain,
    "/turn-on/confirm": turn_on.confirm,
    "/old-mail": turn_on.old_mail,
    "/code.txt": codes.code_as_file,
    "/recovery-code": codes.recovery_code,
    "/recovery-code/confirm": codes.confirm,
    "/app-passwords": codes.app_passwords,
    "/app-passwords/revoke": codes.revoke,
    "/key": codes.own_key,
    "/password": passwords.change,
    "/reset": passwords.reset,
    "/sessions": leave.end_sessions,
    "/turn-off": leave.turn_off,
    "/stay": leave.stay,
}


def make(config: Config, log: Log) -> Any:
    """The application for a WSGI server.  Raises ConfigError."""
    from flask import Flask, g, make_response, request
    from werkzeug.exceptions import HTTPException

    folder = str(importlib.resources.files("mailseal.web"))
    app = Flask("mailseal.web", static_folder=None, template_folder=f"{folder}/templates")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    # No redirects to another spelling of an address: they would repeat the Host header.
    app.url_map.merge_slashes = app.url_map.strict_slashes = False
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    site = _site(config, folder)
    style = _style(config, folder)

    def run(view: View) -> Callable[[], Any]:
        def answer() -> Any:
            visit = g.visit = Visit(site, request)
            try:
                return view(visit)
            except SignIn:
                return start.ask_to_sign_in(visit)
            except BadForm:
                return visit.show("bad_form.html", status=403)
            except NotPermitted:
                # The token of this session is not valid any more: the agent was restarted.
                site.sessions.end(visit.cookie)
                visit.session = None
                return start.ask_to_sign_in(visit)
            except MailsealError as exc:
                log.write(INFO, f"{request.path}: {type(exc).__name__}: {exc}")
                return visit.show("failed.html", status=503, why=visit.why(exc))

        return answer

    for path, view in VIEWS.items():
        name = f"{view.__module__}.{view.__name__}".replace(".", "_")
        rule = site.prefix + path
        app.add_url_rule(rule, name, run(view), methods=["GET", "POST"])
    api.add(app, site)

    def give_style() -> Any:
        answer = make_response(style)
        answer.headers["Content-Type"] = "text/css; charset=utf-8"
        answer.headers["Cache-Control"] = "public, max-age=86400"
        return answer

    app.add_url_rule(f"{site.prefix}/style.css", "style", give_style)

    def add_headers(answer: Any) -> Any:
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        visit: Visit | None = g.get("visit")
        if visit is not None:
            more = {"secure": True, "httponly": True, "samesite": "Strict", "path": "/"}
            if request.cookies.get(COOKIE) != visit.cookie:
                answer.set_cookie(COOKIE, visit.cookie, **more)
            if visit.chosen:
                answer.set_cookie(LANGUAGE_COOKIE, visit.chosen, max_age=31536000, **more)
        return answer

    def failed(exc: Exception) -> Any:
        if isinstance(exc, HTTPException):
            text = f"{exc.code} {exc.name}\n"
            return make_response(text, exc.code, {"Content-Type": "text/plain; charset=utf-8"})
        frames = traceback.extract_tb(exc.__traceback__)[-3:]
        where = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(frames))
        log.write(ERROR, f"{request.path}: unexpected {type(exc).__name__} at {where}")
        text = "500 Internal error. It is in the log of mailseal-web.\n"
        return make_response(text, 500, {"Content-Type": "text/plain; charset=utf-8"})

    app.after_request(add_headers)
    app.register_error_handler(Exception, failed)
    return app


def _site(config: Config, folder: str) -> Site:
    web = config.web
    style = _style(config, folder)
    folders = [f"{folder}/po", *([web.theme] if web.theme else [])]
    try:
        texts = Texts.load(folders, web.language)
    except OSError as exc:
        raise ConfigError(f"option web.theme: {exc.filename}: {exc.strerror}") from None
    sessions = WebSessions(idle=web.idle_timeout, absolute=web.absolute_timeout)
    name = hashlib.sha256(style.encode()).hexdigest()[:12]
    return Site(config, texts, sessions, name, _themed(config, "logo.svg"))


def _style(config: Config, folder: str) -> str:
    with open(f"{folder}/static/style.css", encoding="utf-8") as stream:
        return stream.read() + _themed(config, "theme.css")


def _themed(config: Config, name: str) -> str:
    """A file of the theme; empty if there is none."""
    theme = config.web.theme
    path = os.path.join(theme, name) if theme else ""
    if not path or not os.path.exists(path):
        return ""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(_MAX_THEME + 1)
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"option web.theme: cannot read {path}") from None
    if len(text) > _MAX_THEME:
        raise ConfigError(f"option web.theme: {path} is larger than {_MAX_THEME} bytes")
    return text
