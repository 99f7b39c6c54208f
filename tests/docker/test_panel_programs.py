# SPDX-License-Identifier: MIT
"""mailseal-set-hash as installed: the line for sudoers in docs/panels.md, and what it permits."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator

import pytest

from tests.docker.site import Site, password_of
from tests.lab.place import REPOSITORY

USER = "alice@example.org"
PROGRAM = "/usr/local/bin/mailseal-set-hash"
CONF = "/etc/mailseal/mailseal.yaml"
AS_PANEL = "runuser -u www-data --"


def sudoers_line() -> str:
    with open(os.path.join(REPOSITORY, "docs", "panels.md"), encoding="utf-8") as stream:
        (line,) = re.findall(r"^    (www-data ALL = .*)$", stream.read(), re.M)
    return f"{line}\n"


@pytest.fixture
def panel(site: Site) -> Iterator[Site]:
    """The site with sudo, the line, and the configuration for its passwd-file."""
    site.run(
        "cat > /etc/sudoers.d/mailseal; chmod 440 /etc/sudoers.d/mailseal; visudo -c",
        stdin=sudoers_line().encode(),
    )
    site.run(
        "cat > /etc/mailseal/set-hash.yaml; chmod 600 /etc/mailseal/set-hash.yaml",
        stdin=b"database: passwd-file\npath: /etc/dovecot/users\n",
    )
    site.run(f"cp -p {CONF} {CONF}.before; echo 'agent: {{panel_users: [www-data]}}' >> {CONF}")
    site.run("systemctl restart mailseal-agent")
    yield site
    site.run("rm -f /etc/sudoers.d/mailseal /etc/mailseal/set-hash.yaml /etc/dovecot/users.lock")
    site.run(f"mv {CONF}.before {CONF}; systemctl restart mailseal-agent")


def test_a_panel_changes_both_with_the_line_of_the_docs(panel: Site) -> None:
    old, new = password_of("alice"), "another password"
    before = panel.run("stat -c '%U %G %a' /etc/dovecot/users")
    for first, second in ((old, new), (new, old)):
        panel.run(
            f"{AS_PANEL} mailseal passwd {USER} --stdin --then sudo -n {PROGRAM} {USER}",
            stdin=f"{first}\n{second}\n".encode(),
        )
        with panel.login("alice", second):
            pass
        # Dovecot looks at a passwd-file at most once a second.
        panel.run("sleep 1.1")
    assert panel.run("stat -c '%U %G %a' /etc/dovecot/users") == before


def test_the_line_permits_nothing_else(panel: Site) -> None:
    before = panel.run("sha256sum /etc/dovecot/users")
    for arguments in ("", f"{USER} --then", "-h", f"{USER} /bin/sh -c :", "--config=/tmp/x"):
        command = f"echo 'a password' | {AS_PANEL} sudo -n {PROGRAM} {arguments}"
        assert panel.status(command) == 64, arguments
    for command in ("/bin/sh -c :", "/usr/local/bin/mailseal status", f"-u vmail {PROGRAM} x"):
        assert panel.status(f"{AS_PANEL} sudo -n {command}") == 1, command
    # Nothing of the panel's environment reaches the program, nor does its folder.
    module = shlex.quote("open('/tmp/was-run', 'w')\n")
    panel.run(f"mkdir -m 755 /tmp/trap; printf %s {module} > /tmp/trap/yaml.py")
    trap = "cd /tmp/trap; export PYTHONPATH=/tmp/trap PYTHONSTARTUP=/tmp/trap/yaml.py"
    refused = f"{trap}; echo 'a password' | {AS_PANEL} sudo -n {PROGRAM} nobody@example.org"
    assert panel.status(refused) == 67
    assert panel.status("test -e /tmp/was-run") == 1
    panel.run("rm -r /tmp/trap")
    assert panel.run("sha256sum /etc/dovecot/users") == before
