# SPDX-License-Identifier: MIT
"""Checks where Dovecot has the Sieve scripts of users: mailseal-lmtp looks there for them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mailseal.admin.doctor.check import Check, Outcome, failed
from mailseal.admin.doctor.site import Site
from mailseal.delivery.dovecot import settings
from mailseal.doveconf import Block

_USUAL = "~/.dovecot.sieve"


def _script(site: Site) -> Iterator[Outcome]:
    """If mailseal looks elsewhere, scripts of enrolled users do not run."""
    config = site.config
    if config.delivery.sieve == "always" or not config.dovecot_is_here:
        return
    loads = [name for name in ("lmtp", "lda") if "sieve" in site.doveconf.plugins(name)]
    if not loads:
        return
    theirs = active(site.dovecot(loads[0]), site.series)
    ours = config.delivery.sieve_script
    if theirs is None or (ours and _same(ours) == _same(theirs)):
        return
    yield failed(
        f"Dovecot runs the Sieve script {theirs}, but delivery.sieve_script is {ours or 'null'}: "
        "scripts of enrolled users do not run",
        f"set `delivery: {{sieve_script: {theirs}}}` in mailseal.yaml, then run "
        "`systemctl restart mailseal-lmtp`",
    )


def active(found: Block, series: str) -> str | None:
    """The path of the active script, for all users; None if Dovecot has it in another way."""
    if series == "2.3":
        value = next((p.get("sieve") for p in found.all("plugin") if p.get("sieve")), _USUAL)
        driver, colon, rest = value.partition(":")
        if colon and "/" not in driver:
            if driver != "file":
                return None
            path, *options = rest.split(";")
            active = next((o.partition("=")[2] for o in options if o.startswith("active=")), "")
            return active or (path if path.endswith(".sieve") else _USUAL)
        return value
    for block in found.all("sieve_script"):
        if block.get("type") in ("", "personal"):
            if block.get("driver") not in ("", "file"):
                return None
            value = block.get("active_path") or block.get("path") or _USUAL
            return settings.in_short(value)
    return _USUAL


def _same(path: str) -> str:
    if path.startswith("%h/"):
        path = f"~{path[2:]}"
    return os.path.normpath(path)


CHECKS = (
    Check(
        "sieve-script",
        "mailseal-lmtp looks for Sieve scripts where Dovecot has them",
        "set delivery.sieve_script to Dovecot's path; `doveconf -f protocol=lmtp plugin/sieve` "
        "shows it in 2.3",
        _script,
    ),
)
