# SPDX-License-Identifier: MIT
"""The JSON API and its description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.lab.place import REPOSITORY
from tests.web.site import PASSWORD, Site
from tests.web.tab import Tab


def two_groups(begun: dict[str, str]) -> str:
    """The groups of the code that an answer asks for."""
    groups = begun["code"].split("-")
    return " ".join(groups[int(number) - 1] for number in begun["asked"].split())


def test_the_api_does_the_same(site: Site, user: str) -> None:
    tab = Tab(site.web_socket)

    def call(path: str, status: int = 200, **fields: object) -> dict[str, Any]:
        body = json.dumps({"user": user, **fields}).encode()
        kind = {"Content-Type": "application/json"}
        page = tab.ask("POST", f"/mailseal/api/v1{path}", body, kind)
        assert page.status == status, (path, page.text)
        assert not page.cookies or "__Host-mailseal=" in page.cookies[0]
        found: dict[str, Any] = json.loads(page.text)
        return found

    assert call("/state", password=PASSWORD)["enrolled"] is False
    assert call("/state", 401, password="guess")["error"] == "WrongPassword"
    assert call("/state", 400)["error"] == "UsageError"
    assert call("/state", 400, password=["x"])["error"] == "UsageError"
    begun = call("/enroll/begin", password=PASSWORD)
    call("/enroll/finish", 400, password=PASSWORD, typed="x y")
    assert call("/enroll/finish", password=PASSWORD, typed=two_groups(begun))["key_id"]
    call("/enroll/begin", 409, password=PASSWORD)
    app = call("/app-passwords", password=PASSWORD, label="phone")
    assert site.reads(user, app["code"]) == []
    call("/app-passwords/revoke", password=PASSWORD, slot=app["slot"])
    assert site.reads(user, app["code"]) is None
    begun = call("/recovery-code/begin", password=PASSWORD)
    call("/recovery-code/finish", password=PASSWORD, typed=two_groups(begun))
    assert call("/keys", password=PASSWORD)["keys"]
    call("/sessions/end", password=PASSWORD)
    call("/leave", password=PASSWORD)
    call("/stay", password=PASSWORD)
    # Another site can send this content type, and no other, without a preflight request.
    form = {"Content-Type": "text/plain"}
    body = json.dumps({"user": user, "password": PASSWORD}).encode()
    assert tab.ask("POST", "/mailseal/api/v1/state", body, form).status == 400


def test_the_api_is_described() -> None:
    from mailseal.web.api import CALLS

    described = json.loads(Path(REPOSITORY, "lib/mailseal/web/openapi.json").read_text())
    paths = {
        path.removeprefix("/mailseal/api/v1"): about for path, about in described["paths"].items()
    }
    assert set(paths) == {"/state", "/password", "/reset", *CALLS}
    for path, call in CALLS.items():
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(schema["required"]) == {"user", *call.takes}, path
        assert set(schema["properties"]) == {"user", *call.takes, *call.optional}, path
        given = paths[path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(given.get("properties", {})) == set(call.gives), path
