# SPDX-License-Identifier: MIT
"""Proofs by test logins: each service gets the user's key, and what IMAP saves is sealed."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mailseal.admin.doctor import clients, listeners
from mailseal.admin.doctor.check import Check, NotUsed, Outcome, failed, passed, warned
from mailseal.admin.doctor.clients import Refused, ok
from mailseal.admin.doctor.listeners import Listener
from mailseal.admin.doctor.site import Site
from mailseal.admin.doctor.trial import FOLDER, Trial, new_marker, test_mail
from mailseal.delivery.dovecot.quota import QuotaStatus
from mailseal.errors import MailboxFull, MailboxFullRefused

if TYPE_CHECKING:
    import imaplib

_OLD = 3600
"""Seconds; no run takes so long."""

_LOGS = "run `journalctl -u dovecot -t dovecot -n 50` to see why"


def trial_of(site: Site) -> Trial:
    """The user; registry.py runs these checks only if there is one."""
    assert site.trial is not None  # noqa: S101
    return site.trial


def _enrolled(site: Site) -> Iterator[Outcome]:
    trial = trial_of(site)
    trial.key_id  # noqa: B018 - raises NotEnrolled
    yield passed(f"{trial.user} is enrolled, and the user database knows {trial.account.user}")


@contextlib.contextmanager
def logged_in(site: Site) -> Iterator[imaplib.IMAP4]:
    """IMAP, logged in as the user.  Raises Refused."""
    trial = trial_of(site)
    at = next(listeners.of(site, "imap"), None)
    if at is None:
        raise Refused("Dovecot has no port for IMAP")
    with clients.imap(at, trial.user, trial.password) as imap:
        yield imap


def _imap(site: Site) -> Iterator[Outcome]:
    """APPEND to a folder of our own: sealed on the disk, and read back."""
    if "imap" not in site.protocols:
        raise NotUsed
    trial = trial_of(site)
    marker, since = new_marker(), time.time()
    step = "log in"
    try:
        with logged_in(site) as imap:
            step = "make a folder"
            prefix = _prefix(imap)
            _remove_old(imap, prefix)
            folder = f'"{prefix}{FOLDER}{int(since)}-{secrets.token_hex(4)}"'
            ok(imap.create(folder))
            try:
                step = "save a mail"
                ok(imap.append(folder, "", "", test_mail(trial.user, marker)))
                step = "read a sealed mail"
                ok(imap.select(folder))
                back = b"".join(ok(imap.fetch("1", "(BODY.PEEK[])")))
                written = trial.changed_since(since, marker)
            finally:
                with contextlib.suppress(Exception):  # the connection may be closed
                    imap.select("INBOX")
                    ok(imap.delete(folder))
    except Refused as exc:
        yield failed(f"IMAP: {trial.user} cannot {step}: {exc}", _remedy_of(trial, step, str(exc)))
        return
    if written.clear:
        yield failed(
            f"IMAP: a mail that {trial.user} has saved is in {written.clear[0]} in clear",
            "run `mailseal check-config`; if it finds nothing, Dovecot has older settings: run "
            "`systemctl restart dovecot`",
        )
    elif written.foreign:
        yield failed(
            f"IMAP: a mail that {trial.user} has saved is not sealed to the user's key",
            f"run `mailseal repair {trial.user}`, then `mailseal check-config`",
        )
    elif not written.sealed:
        yield failed(
            f"IMAP: a mail that {trial.user} has saved is in no new file below {trial.folder}",
            "Dovecot's mail location and mailseal's differ: run `mailseal check-config`",
        )
    elif marker.encode() not in back:
        yield failed(f"IMAP: {trial.user} got back another mail than was saved", _LOGS)
    else:
        yield passed(f"IMAP: {trial.user} gets the key; a saved mail is sealed, and was removed")


def _remedy_of(trial: Trial, step: str, text: str) -> str:
    if step == "log in" and "AUTHENTICATIONFAILED" in text:
        return f"was the password right? If so, run `mailseal status {trial.user}`, or {_LOGS}"
    if step == "read a sealed mail":
        return "the login got no key: run `mailseal check-config`, and `systemctl restart dovecot`"
    return _LOGS


def _remove_old(imap: imaplib.IMAP4, prefix: str) -> None:
    """Folders of earlier runs that were killed; not those of runs at the same time."""
    for line in ok(imap.list('""', f'"{prefix}{FOLDER}*"')):
        found = re.search(rf"{FOLDER}(\d+)-[0-9a-f]{{8}}", line.decode("utf-8", "replace"))
        if found and int(found[1]) < time.time() - _OLD:
            imap.delete(f'"{prefix}{found[0]}"')  # NO if another run has just deleted it


def _prefix(imap: imaplib.IMAP4) -> str:
    """The prefix of the user's own folders: `INBOX.` at some sites."""
    found = re.match(rb'\(\("([^"]*)"', b"".join(ok(imap.namespace())))
    return found[1].decode("utf-8", "replace") if found else ""


def remove(imap: imaplib.IMAP4, folder: str, marker: str, since: int = 1) -> None:
    """Expunge the mail with this marker, and no other."""
    ok(imap.select(folder))
    for uid in search(imap, marker, since):
        ok(imap.uid("STORE", uid, "+FLAGS.SILENT", "(\\Deleted)"))
        ok(imap.uid("EXPUNGE", uid))


def search(imap: imaplib.IMAP4, marker: str, since: int) -> list[str]:
    """The UIDs of mails with the marker, in the open folder, from this UID on.

    Only of new mails: Dovecot opens each mail for this.
    """
    yesterday = time.strftime("%d-%b-%Y", time.gmtime(time.time() - 86400))
    which = ("UID", f"{since}:*", "SINCE", yesterday, "HEADER", "SUBJECT", f'"{marker}"')
    found = ok(imap.uid("SEARCH", *which))
    return b" ".join(found).decode("ascii", "replace").split()


def next_uid(imap: imaplib.IMAP4, folder: str) -> int:
    """The UID that the next mail gets."""
    said = b"".join(ok(imap.status(folder, "(UIDNEXT)")))
    number = re.search(rb"UIDNEXT (\d+)", said)
    return int(number[1]) if number else 1


def _pop3(site: Site) -> Iterator[Outcome]:
    """RETR of a sealed mail, which is the last one in INBOX."""
    if "pop3" not in site.protocols:
        raise NotUsed
    trial = trial_of(site)
    at = next(listeners.of(site, "pop3"), None)
    if at is None:
        raise NotUsed
    marker = new_marker()
    try:
        with logged_in(site) as imap:
            since = next_uid(imap, "INBOX")
            ok(imap.append("INBOX", "", "", test_mail(trial.user, marker)))
            try:
                back = clients.pop3_last(at, trial.user, trial.password)
            finally:
                remove(imap, "INBOX", marker, since)
    except Refused as exc:
        yield failed(f"POP3: {trial.user} cannot log in and read a sealed mail: {exc}", _LOGS)
        return
    if marker.encode() in back:
        yield passed(f"POP3: {trial.user} gets the key")
    else:
        yield warned("POP3: another mail has arrived in INBOX meanwhile", "run it again")


def _submission(site: Site) -> Iterator[Outcome]:
    ports: list[Listener] = []
    if "submission" in site.protocols:
        ports += listeners.of(site, "submission")
    with contextlib.suppress(Exception):  # reported by the check of Postfix
        ports += listeners.submission_of_postfix(site)
    yield from _keyless(site, "submission", ports, clients.submission)


def _sieve(site: Site) -> Iterator[Outcome]:
    ports = list(listeners.of(site, "sieve")) if "sieve" in site.protocols else []
    yield from _keyless(site, "ManageSieve", ports, clients.managesieve)


def _keyless(
    site: Site, name: str, ports: list[Listener], login: Callable[[Listener, str, bytes], None]
) -> Iterator[Outcome]:
    """Services that read no mail: the password is enough."""
    if not ports:
        raise NotUsed
    trial = trial_of(site)
    for at in ports:
        try:
            login(at, trial.user, trial.password)
        except Refused as exc:
            yield failed(f"{name}: {trial.user} cannot log in at port {at.port}: {exc}", _LOGS)
        else:
            yield passed(f"{name}: {trial.user} can log in at port {at.port}")


def _quota(site: Site) -> Iterator[Outcome]:
    """quota-status needs no key: it must answer while the user is logged out, too."""
    service = site.config.dovecot.quota_socket
    if not service:
        raise NotUsed
    trial = trial_of(site)
    status = QuotaStatus(service, site.config)
    try:
        status.require_room(trial.account.user, 1000)
        with logged_in(site) as imap:
            ok(imap.select("INBOX"))
            status.require_room(trial.account.user, 1000)
    except (MailboxFull, MailboxFullRefused) as exc:
        yield warned(f"{exc}", f"run `doveadm quota get -u {trial.user}`")
    except Refused as exc:
        yield failed(f"quota-status answers, but {trial.user} cannot log in: {exc}", _LOGS)
    else:
        yield passed("quota-status answers, also while the user is logged out")


CHECKS = (
    Check(
        "enrolled",
        "USER is enrolled",
        "run `mailseal status`",
        _enrolled,
        of_user=True,
    ),
    Check(
        "quota",
        "quota-status answers while USER is logged in and logged out (with dovecot.quota_socket)",
        "see Quota in docs/install.md; then run `systemctl restart dovecot mailseal-lmtp`",
        _quota,
        of_user=True,
    ),
    Check(
        "imap",
        "IMAP: USER gets the key, and a saved mail is sealed on the disk",
        _LOGS,
        _imap,
        of_user=True,
    ),
    Check(
        "pop3",
        "POP3: USER gets the key",
        _LOGS,
        _pop3,
        of_user=True,
    ),
    Check(
        "submission",
        "submission, of Dovecot or Postfix: USER can log in",
        _LOGS,
        _submission,
        of_user=True,
    ),
    Check(
        "managesieve",
        "ManageSieve: USER can log in",
        _LOGS,
        _sieve,
        of_user=True,
    ),
)
