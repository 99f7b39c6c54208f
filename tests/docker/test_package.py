# SPDX-License-Identifier: MIT
"""The .deb: a reproducible build, lintian, installation, upgrade, removal and purge."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.conftest import SUITES
from tests.docker.packages import build, install
from tests.docker.site import Site

USER = "alice@example.org"
STATE = "/var/lib/mailseal"
CONF = "/etc/mailseal/mailseal.yaml"
_EXPOSURE = {"agent": 2.5, "lmtp": 3.0, "sealer": 3.0, "replica": 2.5, "web": 2.5, "metrics": 2.5}
"""The largest values of `systemd-analyze security`."""


@pytest.fixture(params=list(SUITES))
def host(request: pytest.FixtureRequest, hosts: dict[str, Site], package: Path) -> Iterator[Site]:
    """A server with Postfix and Dovecot, on which mailseal is not installed.

    test_kinds.py uses the same server before; uninstalling leaves the keyrings, as it should.
    """
    site = hosts["kinds" + request.param.replace(".", "")]
    assert site.status("command -v mailseal") != 0
    site.run(f"rm -rf {STATE}")
    yield site
    site.run(f"rm -rf {STATE}; dpkg -P mailseal 2>/dev/null || true; rm -f /root/*.deb")


def _pid(site: Site) -> str:
    return site.run("systemctl show -p MainPID --value mailseal-agent").strip()


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_same_files_make_the_same_package(package: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "elsewhere", TZ="Asia/Tokyo", LC_ALL="C.UTF-8", USER="somebody")
    assert (
        hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(package.read_bytes()).digest()
    )


def test_lintian_finds_nothing(package: Path) -> None:
    done = subprocess.run(
        ["lintian", "--fail-on", "error,warning", package], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "", done.stdout


def test_install_upgrade_remove_purge(host: Site, package: Path, newer: Path) -> None:
    site = host
    install(site, package)
    # Nothing is started or enabled before it is configured.
    assert site.run("mailseal --version").strip() == "mailseal 0.1.0"
    for unit in ("mailseal-agent", "mailseal-lmtp", "mailseal-sealer"):
        assert site.run(f"systemctl is-active {unit} || true").strip() == "inactive"
        assert site.run(f"systemctl is-enabled {unit} || true").strip() == "disabled"
    assert site.run("stat -c %U:%a /run/mailseal").strip() == "root:755"
    units = " ".join(f"mailseal-{unit}.service" for unit in _EXPOSURE)
    said = site.run(f"systemd-analyze security --no-pager {units}")
    found = re.findall(r"exposure level for mailseal-(\w+).service: ([\d.]+)", said)
    assert [unit for unit, _ in found] == list(_EXPOSURE)
    assert [one for one in found if float(one[1]) > _EXPOSURE[one[0]]] == []
    site.run("mailseal init; systemctl enable --now mailseal-agent")
    site.run(f"mailseal enroll {USER} --stdin --unchecked", stdin=b"the password of alice\n")
    site.run(f"echo '# ours' >> {CONF}")
    keyring = site.run(f"sha256sum {STATE}/keys/*.json")

    # An upgrade restarts what runs, starts nothing else, and keeps configuration and keyrings.
    before = _pid(site)
    install(site, newer)
    assert _pid(site) not in (before, "0")
    assert site.run("systemctl is-active mailseal-lmtp || true").strip() == "inactive"
    assert site.run(f"tail -1 {CONF}").strip() == "# ours"
    assert site.run(f"sha256sum {STATE}/keys/*.json") == keyring
    assert USER in site.run("mailseal status")

    # Removal stops it, keeps the keyrings and says so; a purge refuses while there are any.
    included = "/etc/dovecot/not-read-by-dovecot"
    site.run(f"echo '!include /usr/share/mailseal/dovecot-conf/a.conf' > {included}")
    said = site.run("dpkg -r mailseal 2>&1")
    site.run(f"rm {included}")
    assert "without them Dovecot does not start again" in said
    assert "the keyrings in /var/lib/mailseal were kept" in said
    assert site.run("systemctl is-active mailseal-agent || true").strip() == "inactive"
    assert site.status("dpkg -P mailseal") != 0
    assert "hint: " in site.run("dpkg -P mailseal 2>&1 || true")
    assert site.run(f"sha256sum {STATE}/keys/*.json") == keyring

    # After the last user has left, a purge removes everything.
    install(site, package)
    site.run("systemctl enable --now mailseal-agent")
    site.run(f"mailseal unenroll {USER} --kicked --force 'all sealed mail of {USER} is lost'")
    assert USER not in site.run("mailseal status")
    site.run("dpkg -P mailseal 2>&1")
    left = site.run(
        f"ls -d {STATE} /etc/mailseal /usr/lib/mailseal /run/mailseal 2>/dev/null || true"
    )
    assert left == ""
