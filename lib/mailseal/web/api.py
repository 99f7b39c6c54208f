# SPDX-License-Identifier: MIT
"""The API for programs: JSON over HTTP, described in openapi.json.

CONTRACT
    Each request is a POST of application/json with the user's password or recovery code.  There
    are no sessions and no cookies, so other web pages cannot send requests.
    The response is the result, or {"error": CLASS, "message": TEXT} with a status in _STATUS.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
from collections.abc import Callable
from typing import Any

from mailseal import errors
from mailseal.errors import Damaged, MailsealError, UsageError, WrongPassword
from mailseal.keys import record
from mailseal.keys.names import normalise
from mailseal.web import password_change
from mailseal.web.visit import Site, Visit

_STATUS: tuple[tuple[type[MailsealError], int], ...] = (
    (errors.TooManyGuesses, 429),
    (errors.WrongPassword, 401),
    (errors.AlreadyEnrolled, 409),
    (errors.NotEnrolled, 409),
    (errors.NothingChanged, 409),
    (errors.ChangePending, 409),
    (errors.NotPermitted, 403),
    (errors.UsageError, 400),
    (errors.TemporaryError, 503),
)

Fields = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Call:
    """One address: the verb of the agent, its fields, and those of the response."""

    verb: str
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


CALLS = {
    "/enroll/begin": Call("enroll_begin", ("password",), ("code", "asked")),
    "/enroll/finish": Call("enroll_finish", ("password", "typed"), ("key_id",), ("old_mail",)),
    "/old-mail": Call("seal_old", ("password",)),
    "/leave": Call("leave", ("password",)),
    "/stay": Call("stay", ("password",)),
    "/sessions/end": Call("end_sessions", ("password",)),
    "/recovery-code/begin": Call("code_begin", ("password",), ("code", "asked")),
    "/recovery-code/finish": Call("code_finish", ("password", "typed")),
    "/app-passwords": Call("app", ("password", "label"), ("slot", "code")),
    "/app-passwords/revoke": Call("revoke", ("password", "slot")),
    "/keys": Call("own_keys", ("password",), ("keys",)),
}


def add(app: Any, site: Site) -> None:
    """Add the API to the application."""
    from flask import make_response, request

    base = f"{site.prefix}/api/v1"
    described = (importlib.resources.files("mailseal.web") / "openapi.json").read_text("utf-8")
    described = described.replace("/mailseal/api/v1", base)
    description = record.parse(described.encode())

    def response(found: dict[str, Any], status: int = 200) -> Any:
        return make_response(json.dumps(found), status, {"Content-Type": "application/json"})

    def run(job: Callable[[Visit, str, Fields], dict[str, Any]]) -> Callable[[], Any]:
        def answer() -> Any:
            try:
                visit = Visit(site, request)
                fields = _fields(request)
                user = normalise(fields.pop("user", ""))
                if visit.vouched_user not in (None, user):
                    raise errors.NotPermitted("another user than the web server has checked")
                return response(job(visit, user, fields))
            except MailsealError as exc:
                status = next((code for kind, code in _STATUS if isinstance(exc, kind)), 503)
                return response({"error": type(exc).__name__, "message": _message(exc)}, status)

        return answer

    jobs: dict[str, Callable[[Visit, str, Fields], dict[str, Any]]] = {
        "/state": _state,
        "/password": _password,
        "/reset": _reset,
        **{path: _asks(call) for path, call in CALLS.items()},
    }
    for path, job in jobs.items():
        app.add_url_rule(f"{base}{path}", f"api{path}", run(job), methods=["POST"])
    app.add_url_rule(f"{base}/openapi.json", "api", lambda: response(description))


def _fields(request: Any) -> Fields:
    if request.mimetype != "application/json":
        raise UsageError("the body must be application/json")
    try:
        found = record.parse(request.get_data())
    except Damaged:
        raise UsageError("the body is not JSON") from None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise UsageError("the body must be an object of texts")
    return found


def _message(exc: MailsealError) -> str:
    """The text of the error, but one for all wrong passwords and codes.

    Their own texts say what was tried, and so whether there is a keyring.
    """
    return "the password or code is wrong" if isinstance(exc, WrongPassword) else str(exc)


def _asks(call: Call) -> Callable[[Visit, str, Fields], dict[str, Any]]:
    def job(visit: Visit, user: str, fields: Fields) -> dict[str, Any]:
        given = {name: _needed(fields, name) for name in call.takes}
        given |= {name: fields[name] for name in call.optional if fields.get(name)}
        answer = visit.agent.ask(call.verb, user, **given)
        return {name: answer.text(name) for name in call.gives}

    return job


def _state(visit: Visit, user: str, fields: Fields) -> dict[str, Any]:
    return visit.agent.sign_in(user, _needed(fields, "password"))[1]


def _password(visit: Visit, user: str, fields: Fields) -> dict[str, Any]:
    state = _state(visit, user, fields)
    password_change.change(visit, state, fields["password"], _needed(fields, "new"))
    return {}


def _reset(visit: Visit, user: str, fields: Fields) -> dict[str, Any]:
    password_change.reset(visit, user, _needed(fields, "code"), _needed(fields, "new"))
    return {}


def _needed(fields: Fields, name: str) -> str:
    try:
        return fields[name]
    except KeyError:
        raise UsageError(f"the field {name} is missing") from None
