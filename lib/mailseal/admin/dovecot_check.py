# SPDX-License-Identifier: MIT
"""What in this machine's Dovecot configuration does not fit mailseal's.

Mail in clear, mail where Dovecot does not look for it, Sieve scripts that do not
run.  Logins and look-ups have a module of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailseal.admin import dovecot_auth_check, dovecot_folders_check
from mailseal.admin.finding import Finding, error, warning
from mailseal.config import Config
from mailseal.delivery.dovecot import settings
from mailseal.delivery.dovecot.location import expand, layout_of, maildir_of
from mailseal.doveconf import Doveconf, DoveconfError

_SAMPLE = ("user@example.org", "/home/user")


def findings(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """What is wrong; one warning if Dovecot's settings cannot be read."""
    if not config.dovecot_is_here:
        return
    try:
        doveconf.settings()
    except DoveconfError as exc:
        yield warning(f"Dovecot's settings were not checked: {exc}")
        return
    yield from _mail_crypt(doveconf)
    yield from dovecot_auth_check.findings(doveconf)
    yield from dovecot_auth_check.password_check(config, doveconf)
    yield from _sieve(config, doveconf)
    yield from _location(config, doveconf)
    yield from dovecot_folders_check.findings(doveconf)


def _mail_crypt(doveconf: Doveconf) -> Iterator[Finding]:
    """Every program of Dovecot's that reads or stores mail; lda and doveadm run without being
    named in `protocols`."""
    running = doveconf.settings().get("protocols").split()
    for protocol in ("imap", "pop3", "lmtp", "lda", "doveadm"):
        if protocol not in running and protocol not in ("lda", "doveadm"):
            continue
        if "mail_crypt" not in doveconf.plugins(protocol):
            yield error(
                f"Dovecot does not load mail_crypt in protocol {protocol}: sealed mail cannot be "
                "read there, and new mail would be stored in clear; see mailseal.conf in "
                "dovecot-conf"
            )


def _sieve(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """Scripts that would not run, or not where they are expected to."""
    running = [name for name in ("lmtp", "lda") if "sieve" in doveconf.plugins(name)]
    if config.delivery.sieve == "always":
        if "lmtp" not in running:
            yield error(
                "delivery.sieve is always, but Dovecot does not load sieve in protocol lmtp: "
                "no script runs; add it to mail_plugins there"
            )
        return
    if running == ["lda"]:
        yield warning(
            "Dovecot loads sieve in protocol lda only: mail that mailseal hands to Dovecot comes "
            "by LMTP, where no script runs; add sieve to mail_plugins in protocol lmtp"
        )
    for protocol in running:
        if names := _site_scripts(doveconf, protocol):
            yield warning(
                f"Dovecot has Sieve scripts of the site ({', '.join(names)}): they do not run for "
                "enrolled users, whose mail mailseal stores itself; with `delivery.sieve: always` "
                "Dovecot delivers and seals that mail"
            )
            return


def _site_scripts(doveconf: Doveconf, protocol: str) -> list[str]:
    """Their names; those that run at IMAP's COPY or FLAG are left out."""
    settings = doveconf.settings(protocol)
    names = {
        name
        for plugin in settings.all("plugin")  # 2.3
        for name, value in plugin.settings.items()
        if value and re.fullmatch(r"sieve_(before|after|default)\d*", name)
    }
    for script in settings.all("sieve_script"):  # 2.4
        causes = script.get("cause") or " ".join(
            name for block in script.all("cause") for name in block.settings
        )
        at_delivery = "delivery" in (causes or "delivery")
        if script.get("type") in ("before", "after", "default") and at_delivery:
            names.add(f"sieve_script {script.name}")
    return sorted(names)


def _location(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """Where Dovecot looks for new mail of users whose userdb entry says nothing about it."""
    fields = settings.inbox_fields(doveconf)
    ours = expand(config.delivery.maildir, *_SAMPLE)
    if ours is None or not any(fields.values()) or re.search("%[^hund]", str(fields)):
        return  # a template that only Dovecot can fill in
    if maildir_of(fields, *_SAMPLE, ours) == ours and layout_of(fields) == "maildir++":
        if fields.get("mail_driver") == "maildir" and "mail_inbox_path" not in fields:
            yield from _empty_inbox_path(doveconf, ours)
        return
    theirs = ", ".join(f"{name} = {value}" for name, value in fields.items() if value)
    if settings.known(config):
        return  # and followed
    yield warning(
        f"Dovecot has {theirs}, mailseal has delivery.maildir {config.delivery.maildir}: where "
        "the user database gives no mail location, mail would lie where Dovecot does not look; "
        "make them the same, or have the user database give the location"
    )


def _empty_inbox_path(doveconf: Doveconf, maildir: str) -> Iterator[Finding]:
    """2.4: `mail_inbox_path =` is not the same as no such line."""
    inbox = doveconf.inbox(*_SAMPLE)
    if inbox and inbox != maildir:
        yield error(
            f"Dovecot has INBOX in {inbox}, as mail_inbox_path is set, but empty: new mail that "
            f"mailseal stores in {maildir} would not be seen; remove the line, or give it the "
            "value of mail_path"
        )
