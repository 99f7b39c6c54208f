# SPDX-License-Identifier: MIT
"""Proof by a test mail: Postfix delivers it, and it is sealed in the folder that is INBOX.

The mail has no envelope sender, so nobody gets a bounce.  If it is not delivered, it is removed
from the queue.
"""

from __future__ import annotations

import contextlib
import dataclasses
import imaplib
import json
import time
from collections.abc import Iterator

from mailseal.admin.doctor.check import Check, Outcome, failed, passed, warned
from mailseal.admin.doctor.clients import Refused, ok
from mailseal.admin.doctor.postconf import Postconf
from mailseal.admin.doctor.proof import logged_in, next_uid, remove, search, trial_of
from mailseal.admin.doctor.site import Site
from mailseal.admin.doctor.trial import Trial, Written, new_marker, test_mail
from mailseal.errors import MailsealError, TemporaryError

_INBOX = "INBOX"
_PAUSE = 0.25
_BETWEEN = 1.0
"""Seconds: a content filter may have taken a mail out of the queue, and puts it back."""

_AFTER_QUEUE = 5.0
"""Seconds to look for a mail that has left the queue."""

_MAIL_LOG = "run `journalctl -t postfix/lmtp -t mailseal-lmtp -n 50` to see why"


@dataclasses.dataclass
class _Queued:
    """The mail in Postfix's queue.  `why`: the reason for a delay."""

    id: str
    why: str


def _arrival(site: Site) -> Iterator[Outcome]:
    trial = trial_of(site)
    user = trial.user
    marker, began = new_marker(), time.time()
    try:
        with logged_in(site) as imap:
            since = next_uid(imap, _INBOX)
            site.postfix.run(
                "sendmail", "-i", "-f", "<>", "--", user, stdin=_lf(test_mail(user, marker))
            )
            try:
                folder, queued = _wait(site, imap, marker, since)
            except BaseException:
                _clean_up(site, imap, marker, since)
                raise
            written = trial.changed_since(began, marker)
            if folder:
                remove(imap, folder, marker, since if folder == _INBOX else 1)
    except Refused as exc:
        yield failed(f"the test mail cannot be read with IMAP: {exc}", _MAIL_LOG)
        return
    if queued is not None:
        site.postfix.run("postsuper", "-d", queued.id)
        why = queued.why or "no reason is known yet"
        yield failed(f"Postfix has not delivered the test mail: {why}", _MAIL_LOG)
    elif not folder:
        yield failed(
            f"Postfix has no test mail for {user} in its queue any more, but it is in no folder of "
            "the user",
            _MAIL_LOG,
        )
    else:
        yield from _judged(trial, folder, written)


def _judged(trial: Trial, folder: str, written: Written) -> Iterator[Outcome]:
    user = trial.user
    if written.clear:
        yield failed(
            f"a mail from Postfix to {user} is stored in {written.clear[0]} in clear",
            "run `mailseal check-config`, and the commands in postfix-conf/virtual-transport.md",
        )
    elif written.foreign:
        yield failed(
            f"a mail from Postfix to {user} is not sealed to the user's key",
            f"run `mailseal repair {user}`, then `mailseal check-config`",
        )
    elif not written.sealed:
        yield failed(
            f"a mail from Postfix to {user} is in no new file below {trial.folder}",
            "Dovecot's mail location and mailseal's differ: run `mailseal check-config`",
        )
    elif folder != _INBOX:
        yield warned(
            f"a mail from Postfix to {user} is sealed, but in the folder {folder}",
            "nothing, if a Sieve script or delivery.header_rules put it there; otherwise compare "
            "`postconf recipient_delimiter` with delivery.recipient_delimiter",
        )
    else:
        yield passed(f"a mail from Postfix to {user} arrives sealed in INBOX, and was removed")


def _lf(mail: bytes) -> bytes:
    """As sendmail(1) wants it; it adds a Message-ID, which is no secret."""
    return mail.replace(b"\r\n", b"\n")


def _wait(site: Site, imap: imaplib.IMAP4, marker: str, since: int) -> tuple[str, _Queued | None]:
    """The folder in which the mail is, or its entry in the queue; neither if it is nowhere."""
    end = time.monotonic() + site.context.arguments.wait
    gone: float | None = None
    while True:
        ok(imap.select(_INBOX))
        if search(imap, marker, since):
            return _INBOX, None
        queued = _in_queue(site.postfix, marker)
        now = time.monotonic()
        if queued is None:
            gone = gone or now
            if now > gone + _BETWEEN and (folder := _elsewhere(imap, marker)):
                return folder, None
            if now > gone + _AFTER_QUEUE:
                return "", None
        elif queued.why or now > end:
            return "", queued
        else:
            gone = None
        time.sleep(_PAUSE)


def _clean_up(site: Site, imap: imaplib.IMAP4, marker: str, since: int) -> None:
    """After Ctrl-C or an error: the mail does not stay in the queue or in INBOX."""
    with contextlib.suppress(MailsealError):
        if queued := _in_queue(site.postfix, marker):
            site.postfix.run("postsuper", "-d", queued.id)
    with contextlib.suppress(Refused, OSError, imaplib.IMAP4.error):
        remove(imap, _INBOX, marker, since)


def _in_queue(postfix: Postconf, marker: str) -> _Queued | None:
    for line in postfix.run("postqueue", "-j").splitlines():
        entry = json.loads(line)
        if entry.get("sender") != "MAILER-DAEMON":
            continue
        try:
            if marker not in postfix.run("postcat", "-hq", entry["queue_id"]):
                continue
        except TemporaryError:
            continue  # it has been delivered at this moment
        reasons = [r["delay_reason"] for r in entry["recipients"] if r.get("delay_reason")]
        return _Queued(entry["queue_id"], reasons[0] if reasons else "")
    return None


def _elsewhere(imap: imaplib.IMAP4, marker: str) -> str:
    """Another folder with the mail; empty if none has it."""
    for line in ok(imap.list()):
        _, _, name = line.decode("utf-8", "replace").partition('" ')
        if "\\Noselect" in line.decode("utf-8", "replace") or name in ("", _INBOX):
            continue
        folder = name if name.startswith('"') else f'"{name}"'
        if imap.select(folder)[0] == "OK" and search(imap, marker, 1):
            return folder
    return ""


CHECKS = (
    Check(
        "arrival",
        "a mail from Postfix arrives sealed in the folder that Dovecot calls INBOX",
        _MAIL_LOG,
        _arrival,
        of_user=True,
    ),
)
