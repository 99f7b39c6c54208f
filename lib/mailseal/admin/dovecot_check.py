# SPDX-License-Identifier: MIT
"""Checks whether Dovecot's configuration on this machine fits mailseal's.

It finds settings that store mail in clear or in the wrong place, and Sieve scripts
that do not run.  Passdbs and userdbs are checked in dovecot_auth_check, mail formats in
dovecot_format_check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailseal.admin import (
    dovecot_auth_check,
    dovecot_folders_check,
    dovecot_format_check,
    dovecot_text_check,
    shipped,
)
from mailseal.admin.finding import Finding, error, warning
from mailseal.config import Config
from mailseal.delivery.dovecot import settings
from mailseal.delivery.dovecot.location import expand, layout_of, maildir_of
from mailseal.doveconf import Doveconf, DoveconfError, Refused

_SAMPLE = ("user@example.org", "/home/user")


def findings(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """All findings; only one if Dovecot's settings cannot be read.

    Settings that doveconf refuses are an error: Dovecot would not start after a restart.
    """
    if not config.dovecot_is_here:
        return
    try:
        doveconf.settings()
    except Refused as exc:
        yield error(f"Dovecot does not accept its configuration: {exc}")
        return
    except DoveconfError as exc:
        yield warning(f"Dovecot's settings were not checked: {exc}")
        return
    yield from _mail_crypt(doveconf)
    yield from dovecot_auth_check.findings(doveconf)
    yield from dovecot_auth_check.password_check(config, doveconf)
    yield from _login_scripts(doveconf)
    yield from _sieve(config, doveconf)
    yield from _quota(config, doveconf)
    yield from _location(config, doveconf)
    yield from dovecot_format_check.findings(doveconf)
    yield from dovecot_folders_check.findings(doveconf)
    yield from dovecot_text_check.findings(config, doveconf)


def _mail_crypt(doveconf: Doveconf) -> Iterator[Finding]:
    """All Dovecot programs that read or store mail; lda and doveadm are not in `protocols`."""
    running = doveconf.settings().get("protocols").split()
    for protocol in ("imap", "pop3", "lmtp", "lda", "doveadm"):
        if protocol not in running and protocol not in ("lda", "doveadm"):
            continue
        if "mail_crypt" not in doveconf.plugins(protocol):
            yield error(
                f"Dovecot does not load mail_crypt in protocol {protocol}: sealed mail cannot be "
                "read there, and new mail is stored in clear; see mailseal.conf in dovecot-conf",
                shipped.put(shipped.include(shipped.series(doveconf.settings()), "mailseal")),
            )


def _login_scripts(doveconf: Doveconf) -> Iterator[Finding]:
    """Post-login scripts: script-login(1) puts all fields of the login into their environment."""
    for service in doveconf.settings().all("service"):
        program, *arguments = service.get("executable").split() or [""]
        sockets = [word for word in arguments if not word.startswith("-")]
        if service.name in ("imap", "pop3", "submission", "managesieve") and sockets:
            yield warning(
                f"service {service.name} has executable = {program} {sockets[0]}: the script of "
                f"service {sockets[0]} runs at each login, with the keys of enrolled users in its "
                f"environment; remove the script: executable = {program}"
            )


def _sieve(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """Sieve scripts that do not run."""
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
            "Dovecot loads sieve in protocol lda only: mailseal relays mail to Dovecot with LMTP, "
            "where no script runs; add sieve to mail_plugins in protocol lmtp"
        )
    for protocol in running:
        if names := site_scripts(doveconf, protocol):
            yield warning(
                f"Dovecot has Sieve scripts for all users ({', '.join(names)}): they do not run "
                "for enrolled users, whose mail mailseal stores itself; with "
                "`delivery.sieve: always` Dovecot delivers and seals that mail; for a spam "
                "folder alone see delivery.header_rules"
            )
            return


def _quota(config: Config, doveconf: Doveconf) -> Iterator[Finding]:
    """Quota that is not checked for mail that mailseal stores itself."""
    if config.dovecot.quota_socket or config.delivery.sieve == "always":
        return
    if "quota" in doveconf.plugins("lmtp"):
        yield warning(
            "Dovecot loads the plugin quota, but dovecot.quota_socket is not set: mail that "
            "mailseal stores itself is stored even if the mailbox is full; see Quota in "
            "docs/install.md"
        )


def site_scripts(doveconf: Doveconf, protocol: str) -> list[str]:
    """The names of scripts for all users that run at delivery, not at IMAP's COPY or FLAG."""
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
    """The mail location of users whose userdb entry has none."""
    known = settings.known(config)
    if known is None:
        yield warning(
            f"mailseal cannot read the settings of the Dovecot at {config.dovecot.userdb_socket}: "
            f"{settings.link_of(config)} must be the link that Dovecot makes in its base_dir when "
            "it starts; without it, mail of enrolled users waits if the user database returns no "
            "mail location"
        )
    fields = settings.inbox_fields(doveconf)
    ours = expand(config.delivery.maildir, *_SAMPLE)
    if ours is None or not any(fields.values()) or re.search("%[^hund]", str(fields)):
        return  # has variables that only Dovecot can expand
    if maildir_of(fields, *_SAMPLE, ours) == ours and layout_of(fields) == "maildir++":
        if fields.get("mail_driver") == "maildir" and "mail_inbox_path" not in fields:
            yield from _empty_inbox_path(doveconf, ours)
        return
    theirs = ", ".join(f"{name} = {value}" for name, value in fields.items() if value)
    if known:
        return  # mailseal-lmtp uses it
    yield warning(
        f"Dovecot has {theirs}, but mailseal has delivery.maildir {config.delivery.maildir}: if "
        "the user database returns no mail location, Dovecot does not find the mail; use the same "
        "location for both, or let the user database return it"
    )


def _empty_inbox_path(doveconf: Doveconf, maildir: str) -> Iterator[Finding]:
    """2.4: an empty mail_inbox_path differs from one that is not set."""
    inbox = doveconf.inbox(*_SAMPLE)
    if inbox and inbox != maildir:
        yield error(
            f"Dovecot has INBOX in {inbox}, because mail_inbox_path is set, but empty: it does not "
            f"find new mail that mailseal stores in {maildir}; remove the setting, or give it the "
            "value of mail_path"
        )
