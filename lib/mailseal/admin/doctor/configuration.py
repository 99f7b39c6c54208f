# SPDX-License-Identifier: MIT
"""Checks of both configurations: all findings of check-config, and what needs a running system."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

from mailseal.admin.config_findings import FAMILIES, Family
from mailseal.admin.doctor.check import Check, Outcome, failed, found, passed, warned
from mailseal.admin.doctor.processes import children, started
from mailseal.admin.doctor.site import RESTART_DOVECOT, Site
from mailseal.errors import ConfigError
from mailseal.login import startup

_BASE = "/run/dovecot"
_SLACK = 0.1
"""Seconds by which a file may be newer than the process that has read it."""


def _family(family: Family, site: Site) -> Iterator[Outcome]:
    for finding in family.find(site.config, site.doveconf):
        yield found(finding)


def _version(site: Site) -> Iterator[Outcome]:
    """Whether dovecot.version, if it is set, is that of the program on this host."""
    config = site.config
    if not config.dovecot_is_here:
        return
    configured = config.dovecot.version
    try:
        real = startup.installed_version()
    except ConfigError:
        if configured == "auto":
            raise
        real = configured  # `dovecot` is not installed here
    if configured in ("auto", real):
        yield passed(f"mailseal knows the version of Dovecot: {real}")
    else:
        yield failed(
            f"dovecot.version is {configured}, but this is Dovecot {real}: logins get fields that "
            "it does not understand, and no key",
            "set `dovecot: {version: auto}` in mailseal.yaml, then run "
            "`systemctl restart mailseal-agent`",
        )


def _running(site: Site) -> Iterator[Outcome]:
    """Whether Dovecot has read its files again after they were changed.

    Its processes config and auth are new ones after each restart and reload.
    """
    if not site.config.dovecot_is_here:
        return
    base = site.dovecot().get("base_dir") or _BASE  # 2.4 does not print the default
    try:
        with open(os.path.join(base, "master.pid"), encoding="ascii") as stream:
            master = int(stream.read())
        since = started(master)
    except (OSError, ValueError):
        yield failed(f"Dovecot does not run: there is no process of {base}/master.pid")
        return
    newest = max([since, *map(started, children(master, "config", "auth"))]) + _SLACK
    folder = os.path.dirname(os.path.realpath(os.path.join(base, "dovecot.conf")))
    changed = [path for path in _settings_below(folder) if os.stat(path).st_mtime > newest]
    for path in sorted(changed)[:1]:
        yield warned(f"{path} was changed after Dovecot had started: it has the older settings")


def _settings_below(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if name.endswith((".conf", ".ext")) and os.path.isfile(path):
                yield path


def _literal(site: Site) -> Iterator[Outcome]:
    """A command of docs/install.md that no shell has run, for example in a quoted here-document."""
    settings = site.dovecot("imap")
    cache = site.config.index.cache or "/run/mailseal/cache"
    for name, value in settings.settings.items():
        if "$(" not in value:
            continue
        remedy = f"run the command in a shell, and put its output into {name}"
        if name in ("mail_location", "mail_path"):
            mail = site.config.delivery.maildir
            line = (
                f"mail_path = {mail}"
                if site.series == "2.4"
                else f"mail_location = maildir:{mail}:INDEXCACHE={cache}/%u"
            )
            remedy = (
                f"if the mail is in {mail}: put `{line}` in place of that line, then run "
                f"{RESTART_DOVECOT}"
            )
        yield failed(
            f"Dovecot's {name} is {value}: no shell has replaced the command in it", remedy
        )


CHECKS = (
    *(
        Check(family.name, family.sound, family.remedy, functools.partial(_family, family))
        for family in FAMILIES
    ),
    Check(
        "version",
        "mailseal knows the version of Dovecot",
        'set `dovecot: {version: "2.3"}` or "2.4" in mailseal.yaml, then run '
        "`systemctl restart mailseal-agent`",
        _version,
    ),
    Check(
        "literal",
        "no setting of Dovecot contains a shell command instead of its output",
        f"run the command in a shell, then {RESTART_DOVECOT}",
        _literal,
    ),
    Check(
        "dovecot-running",
        "Dovecot runs, with its present configuration",
        f"run {RESTART_DOVECOT}",
        _running,
    ),
)
