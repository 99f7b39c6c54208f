# SPDX-License-Identifier: MIT
"""What in this machine's Dovecot configuration does not go with mailseal's: asked of doveconf(1).

Mail in clear, mail where nobody looks, Sieve scripts that nobody runs.

FAILURES
    None: without doveconf, or where it will not answer, nothing is known and
    nothing is said.
"""

from __future__ import annotations

import os
import re
import subprocess

from mailseal.config import Config
from mailseal.delivery.dovecot.userdb import expand, layout_of, maildir_of

_SAMPLE = ("user@example.org", "/home/user")
# How 2.4 writes what 2.3 writes as %h, %u, %n and %d.
_VARIABLES = (
    (re.compile(r"%\{home\}"), "%h"),
    (re.compile(r"%\{user\}"), "%u"),
    (re.compile(r"%\{user ?\| ?username\}"), "%n"),
    (re.compile(r"%\{user ?\| ?domain\}"), "%d"),
)


def warnings(config: Config) -> list[str]:
    """Sentences for people; empty if nothing is wrong, or nothing can be told."""
    found = []
    for protocol in ("imap", "pop3", "lmtp"):
        plugins = _plugins(protocol)
        if plugins is not None and "mail_crypt" not in plugins:
            found.append(
                f"Dovecot does not load mail_crypt in protocol {protocol}: sealed mail cannot be "
                "read there, and new mail would be stored in clear; see mailseal.conf in "
                "dovecot-conf"
            )
    if "checkpassword" in (_doveconf("passdb") or "") and _doveconf("-h", "auth_debug") == "yes":
        found.append(
            "auth_debug is on: Dovecot 2.3 logs what mailseal-checkpassword answers, keys and all; "
            "turn it off, or use the -lua snippets of dovecot-conf/2.3"
        )
    return found + _sieve(config) + _location(config)


def _sieve(config: Config) -> list[str]:
    """Scripts of the site that would not run, or not where they are expected to."""
    running = [protocol for protocol in ("lmtp", "lda") if _loads_sieve(protocol)]
    if config.delivery.sieve == "always":
        if "lmtp" in running or _doveconf("protocols") is None:
            return []
        return [
            "delivery.sieve is always, but Dovecot does not load sieve in protocol lmtp: "
            "no script runs; add it to mail_plugins there"
        ]
    for protocol in running:
        if names := _site_scripts(protocol):
            return [
                f"Dovecot has Sieve scripts of the site ({', '.join(names)}): they do not run for "
                "enrolled users, whose mail mailseal stores itself; with `delivery.sieve: always` "
                "Dovecot delivers and seals that mail"
            ]
    return []


def _plugins(protocol: str) -> str | None:
    return _doveconf("-f", f"protocol={protocol}", "-h", "mail_plugins")


def _loads_sieve(protocol: str) -> bool:
    return re.search(r"\bsieve\b(?! = no)", _plugins(protocol) or "") is not None


def _site_scripts(protocol: str) -> list[str]:
    """Their names; those that run at IMAP's COPY or FLAG are left out."""
    asked = ("-f", f"protocol={protocol}")
    in_23 = _doveconf(*asked, "plugin") or ""
    names = re.findall(r"^\s*(sieve_(?:before|after|default)\d*) = \S", in_23, re.M)
    in_24 = _doveconf(*asked, "sieve_script") or ""
    for name, block in re.findall(r"^sieve_script (\S+) \{\n(.*?)^\}", in_24, re.M | re.S):
        values = dict(re.findall(r"^  (\w+) = (.*)$", block, re.M))
        at_delivery = "delivery" in values.get("cause", "delivery")
        if values.get("type") in ("before", "after", "default") and at_delivery:
            names.append(f"sieve_script {name}")
    return sorted(set(names))


def _location(config: Config) -> list[str]:
    """Where Dovecot looks for new mail of users whose userdb entry says nothing about it."""
    fields = _inbox_fields()
    ours = expand(config.delivery.maildir, *_SAMPLE)
    if ours is None or not any(fields.values()) or re.search("%[^hund]", str(fields)):
        return []  # a template that only Dovecot can fill in
    if maildir_of(fields, *_SAMPLE, ours) == ours and layout_of(fields) == "maildir++":
        return []
    theirs = ", ".join(f"{name} = {value}" for name, value in fields.items() if value)
    return [
        f"Dovecot has {theirs}, mailseal has delivery.maildir {config.delivery.maildir}: where "
        "the user database gives no mail location, mail would lie where Dovecot does not look; "
        "make them the same, or have the user database give the location"
    ]


def _inbox_fields() -> dict[str, str]:
    """The settings that say where INBOX is, as userdb fields."""
    fields = {}
    inbox = re.findall(r"^namespace [^{]*\{\n(.*?)^\}", _doveconf("namespace") or "", re.M | re.S)
    own = "\n".join(block for block in inbox if re.search("^  inbox = yes$", block, re.M))
    names = {"mail": "mail_location"} if _doveconf("-h", "mail_location") else {}
    for name in ("mail_driver", "mail_path", "mail_inbox_path", "mailbox_list_layout"):
        names[name] = name
    for name, setting in names.items():
        # A namespace's own setting wins; 2.3 shortens the name there.
        there = re.search(rf"^  {setting.replace('mail_loc', 'loc')} = (.+)$", own, re.M)
        value = there[1] if there else _doveconf("-f", "protocol=imap", "-h", setting) or ""
        for variable, short in _VARIABLES:
            value = variable.sub(short, value)
        # 2.4 says fs for everybody, and takes maildir++ for a Maildir.
        if value and (name, value) != ("mailbox_list_layout", "fs"):
            fields[name] = value
    return fields


def _doveconf(*arguments: str) -> str | None:
    path = f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin"
    try:
        done = subprocess.run(
            ["doveconf", *arguments],
            capture_output=True,
            timeout=10,
            check=True,
            env={"PATH": path},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()
