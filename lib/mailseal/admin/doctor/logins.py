# SPDX-License-Identifier: MIT
"""Checks Dovecot's settings of logins and logs that check-config does not need to know."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailseal.admin.doctor import listeners
from mailseal.admin.doctor.check import Check, Outcome, failed, warned
from mailseal.admin.doctor.site import Site
from mailseal.admin.shipped import put

_WITH_PASSWORD = {"plain", "login"}
_TOKENS = {"xoauth2", "oauthbearer"}


def _mechanisms(site: Site) -> Iterator[Outcome]:
    """Only the plain password opens a keyring."""
    found: set[str] = set()
    for protocol in ("imap", "pop3", "submission"):
        if protocol in site.protocols:
            found |= set(site.dovecot(protocol).get("auth_mechanisms").lower().split())
    if wrong := sorted(found - _WITH_PASSWORD - _TOKENS):
        yield failed(
            f"Dovecot offers {', '.join(wrong).upper()}: with this, Dovecot does not get the "
            "password that opens the keyring, and logins of enrolled users fail",
            put("auth_mechanisms = plain login"),
        )
    if tokens := sorted(found & _TOKENS):
        yield warned(
            f"Dovecot offers {', '.join(tokens).upper()}: a token does not open a keyring",
            put("auth_mechanisms = plain login"),
        )


def _encrypted(site: Site) -> Iterator[Outcome]:
    """Passwords, and mails, on the network in clear."""
    name = "disable_plaintext_auth" if site.series == "2.3" else "auth_allow_cleartext"
    allowed = "no" if site.series == "2.3" else "yes"
    for protocol in ("imap", "pop3", "submission", "sieve"):
        if protocol not in site.protocols:
            continue
        block = site.dovecot(protocol)
        if block.get("ssl") == "required" or block.get(name) != allowed:
            continue
        for one in listeners.of(site, protocol):
            if not one.tls and not one.is_local:
                line = f"{name} = {'yes' if site.series == '2.3' else 'no'}"
                yield failed(
                    f"Dovecot accepts passwords without TLS from other hosts at port {one.port} "
                    f"({protocol})",
                    put(line),
                )
                break


def _passwords_in_logs(site: Site) -> Iterator[Outcome]:
    block = site.dovecot()
    if block.get("auth_debug_passwords") == "yes":
        yield failed(
            "auth_debug_passwords is on: Dovecot writes passwords to the log",
            put("auth_debug_passwords = no"),
        )
    verbose = block.get("auth_verbose_passwords") or "no"
    if verbose.partition(":")[0] == "plain":
        yield failed(
            "auth_verbose_passwords is plain: Dovecot writes wrong passwords to the log, and most "
            "of them are right ones with a typing error",
            put("auth_verbose_passwords = no"),
        )
    elif verbose != "no":
        yield warned(
            f"auth_verbose_passwords is {verbose}: Dovecot writes hashes of wrong passwords to the "
            "log",
            put("auth_verbose_passwords = no"),
        )


def _debug(site: Site) -> Iterator[Outcome]:
    for name in ("auth_debug", "mail_debug"):
        if any(site.dovecot(p).get(name) == "yes" for p in ("", "imap", "lmtp")):
            yield warned(
                f"{name} is on: Dovecot's log has names of folders, and wrapped keys of users",
                put(f"{name} = no"),
            )
    if value := site.dovecot().get("log_debug"):
        yield warned(
            f"log_debug is {value}: Dovecot's log has names of folders, and wrapped keys of users",
            put("log_debug ="),
        )


def _auth_cache(site: Site) -> Iterator[Outcome]:
    """The keys themselves are never cached: see the cache_key of mailseal's passdb."""
    size = site.dovecot().get("auth_cache_size")
    if re.match(r"[1-9]", size):
        yield warned(
            "auth_cache_size is set: after a password change Dovecot accepts the old password "
            "until auth_cache_ttl is over, but it does not open the keyring, and such logins fail",
            put("auth_cache_size = 0"),
        )


CHECKS = (
    Check(
        "mechanisms",
        "Dovecot offers only mechanisms with which it gets the password",
        "set auth_mechanisms to `plain login`",
        _mechanisms,
    ),
    Check(
        "login-encryption",
        "Dovecot accepts no password without TLS from other hosts",
        "set ssl to `required`",
        _encrypted,
    ),
    Check(
        "passwords-in-logs",
        "Dovecot does not write passwords to its log",
        put("auth_verbose_passwords = no"),
        _passwords_in_logs,
    ),
    Check(
        "debug-logs",
        "Dovecot writes no debug messages about logins and mails",
        put("auth_debug = no"),
        _debug,
    ),
    Check(
        "auth-cache",
        "Dovecot does not cache passwords",
        put("auth_cache_size = 0"),
        _auth_cache,
    ),
)
