# SPDX-License-Identifier: MIT
"""docs/web.md executed: the page under systemd, a user who turns encryption on and leaves."""

from __future__ import annotations

import json
import shlex
from typing import Any

from tests.docker.page import commands
from tests.docker.site import Site, password_of

STEPS = ("web-packages", "web-user", "web-configuration", "web-dovecot")
USER = "carol@example.org"


def call(site: Site, path: str, **fields: str) -> dict[str, Any]:
    body = json.dumps({"user": USER, "password": password_of("carol"), **fields})
    said = site.run(
        "curl -sS --unix-socket /run/mailseal/web.sock -H 'Content-Type: application/json'"
        f" -d {shlex.quote(body)} http://localhost/mailseal/api/v1{path}"
        if site.status("command -v curl") == 0
        else f"python3 -c {shlex.quote(_ASK)} {shlex.quote(path)} {shlex.quote(body)}"
    )
    found: dict[str, Any] = json.loads(said)
    assert "error" not in found, found
    return found


_ASK = """
import http.client, socket, sys
c = http.client.HTTPConnection("localhost")
c.sock = socket.socket(socket.AF_UNIX)
c.sock.connect("/run/mailseal/web.sock")
kind = {"Content-Type": "application/json"}
c.request("POST", "/mailseal/api/v1" + sys.argv[1], sys.argv[2], kind)
print(c.getresponse().read().decode())
"""


def test_the_page_as_the_docs_install_it(site: Site) -> None:
    site.run("cp /etc/mailseal/mailseal.yaml /root/kept.yaml")
    site.run(commands("do", site.version, STEPS, "web.md"))
    try:
        assert site.run("mailseal check-config 2>&1").strip().endswith("ok")
        assert site.run("ps -o user:32= -C mailseal-web").split() == ["mailseal-web"]
        assert site.run("stat -c '%U %G %a' /run/mailseal/web.sock") == "root www-data 660\n"
        assert call(site, "/state")["enrolled"] is False
        begun = call(site, "/enroll/begin")
        groups = begun["code"].split("-")
        typed = " ".join(groups[int(number) - 1] for number in begun["asked"].split())
        call(site, "/enroll/finish", typed=typed, old_mail="1")
        site.wait(
            lambda: (call(site, "/state")["old_mail"] or {}).get("phase") == "done",
            "the older mail is sealed",
            seconds=300,
        )
        with site.login("carol") as imap:
            imap.bodies()
        call(site, "/leave")
        site.wait(lambda: not call(site, "/state")["enrolled"], "carol has left", seconds=300)
        assert site.status(f"mailseal status {USER}") == 67
        with site.login("carol") as imap:
            imap.bodies()
    finally:
        site.run(commands("undo", site.version, ["web"], "web.md"))
        site.run(
            "systemctl disable --now mailseal-sealer;"
            " mv /root/kept.yaml /etc/mailseal/mailseal.yaml; systemctl restart mailseal-agent"
        )
