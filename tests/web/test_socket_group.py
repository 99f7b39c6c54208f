# SPDX-License-Identifier: MIT
"""docs/web.md, "Security": of the processes of www-data, only the web server reaches the page."""

from __future__ import annotations

import grp
import http.client
import os
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.web.fronts import APACHE, Front
from tests.web.site import Site

# Any group that Debian has, and www-data is not in.
GROUP = "games"
REACH = """
import socket, sys
for path in sys.argv[2:]:
    try:
        open(path, "rb").close()
        print("open")
    except OSError as exc:
        print(type(exc).__name__)
socket.socket(socket.AF_UNIX).connect(sys.argv[1])
"""


def workers(front: Front) -> list[int]:
    """The processes of this web server with its group; other test runs have some, too."""
    gid = grp.getgrnam(front.group).gr_gid
    return [pid for pid in front.pids() if gid == _gid(pid)]


def _gid(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return -1
    return int(status.partition("\nGid:")[2].split()[1])


@pytest.mark.parametrize("kind", ["nginx", "apache"])
def test_another_application_of_the_same_user_has_no_access(site: Site, kind: str) -> None:
    if kind == "apache" and not Path(APACHE).exists():
        pytest.skip("to test this, install: apache2-bin")
    site.configure_web(**{"web.socket_group": GROUP, "web.socket_mode": "0660"})
    try:
        assert oct(os.stat(site.web_socket).st_mode & 0o777) == "0o660"
        with Front(site, kind, group=GROUP) as front:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            browser = http.client.HTTPSConnection("127.0.0.1", front.port, context=context)
            browser.request("GET", "/mailseal/")
            assert b"Mail password" in browser.getresponse().read()
            memory = [f"/proc/{number}/mem" for number in workers(front)]
            assert memory
            webmail = subprocess.run(
                ["/usr/bin/python3", "-c", REACH, site.web_socket, *memory],
                user="www-data",
                group="www-data",
                extra_groups=[],
                capture_output=True,
                text=True,
                cwd="/",
            )
            assert "PermissionError" in webmail.stderr, webmail
            assert set(webmail.stdout.split()) == {"PermissionError"}
    finally:
        site.configure_web()
