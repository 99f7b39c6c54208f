# SPDX-License-Identifier: MIT
"""Checks of enrolled users: keyrings, ways in, mail and caches in clear.

With USER only that user is checked.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import Any

from mailseal.admin.doctor.check import Check, NotUsed, Outcome, counted, failed, passed, warned
from mailseal.admin.doctor.site import Site
from mailseal.admin.enroll import NO_SECOND_WAY
from mailseal.admin.mail_place import Places
from mailseal.admin.verify_mail import Examination
from mailseal.admin.verify_result import Result
from mailseal.delivery.dovecot import settings, userdb
from mailseal.delivery.dovecot.sealing import is_told_how_to_save
from mailseal.errors import MailsealError
from mailseal.keys.public import PublicStore
from mailseal.mailbox import clear_text
from mailseal.mailbox.examine import CLEAR, Expected
from mailseal.mailbox.report import TEXT, UNREADABLE

_NAMED = 5
_SAMPLE = 100
_NOBODY = "mailseal-doctor@nobody.invalid"


def _keyrings(site: Site) -> Iterator[Outcome]:
    for entry in site.users:
        user = entry["user"]
        if "problem" in entry:
            yield failed(f"{user}: {entry['problem']}", entry.get("hint", ""))
        elif entry.get("public_key", "ok") != "ok":
            yield failed(
                f"{user}: public key: {entry['public_key']}", f"run `mailseal repair {user}`"
            )


def _ways_in(site: Site) -> Iterator[Outcome]:
    alone = [entry["user"] for entry in site.users if not entry.get("second_way", True)]
    if alone:
        yield warned(
            f"{counted(len(alone), 'user')} ({_some(alone)}) with {NO_SECOND_WAY}",
            f"run `mailseal recovery-code {alone[0]}`; all of them: `mailseal status "
            "--without-recovery --names`",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _mail(site: Site) -> Iterator[Outcome]:
    """`mailseal verify` without keys."""
    clear: dict[str, int] = {}
    other: list[str] = []
    unknown: list[str] = []
    mails = 0
    for result in _examined(site):
        mails += result.mails
        if number := result.counts[CLEAR]:
            clear[result.user] = number
        if result.counts[UNREADABLE]:
            unknown.append(result.user)
        if any(n for kind, n in result.counts.items() if kind not in (CLEAR, TEXT, UNREADABLE)):
            other.append(result.user)
    if clear:
        yield warned(
            f"{counted(sum(clear.values()), 'mail')} in clear in mailboxes of "
            f"{counted(len(clear), 'enrolled user')} ({_some(list(clear))}): older mail, or mail "
            "that was saved without mailseal",
            f"run `mailseal seal {next(iter(clear))}`, or `mailseal seal --all`",
        )
    if other:
        yield failed(
            f"`mailseal verify` finds problems in the mail of {_some(other)}",
            f"run `mailseal verify {other[0]}`",
        )
    if unknown:
        yield warned(
            f"mail of {_some(unknown)} could not be checked", f"run `mailseal verify {unknown[0]}`"
        )
    if not clear and not other and not unknown:
        yield passed(f"the stored mail of enrolled users is sealed: {counted(mails, 'mail')}")


def _caches(site: Site) -> Iterator[Outcome]:
    """Files of Dovecot with text of mails, from before the enrollment or of wrong settings."""
    for result in _examined(site):
        for finding in [one for one in result.findings if one.kind == TEXT][:1]:
            remedy = f"run `mailseal seal {result.user}`"
            if os.path.basename(finding.path) in clear_text.REBUILT:
                remedy = f"run `rm -r {shlex.quote(finding.path)}`; Dovecot makes a new one"
            yield warned(f"{finding.path}: {finding.text}", remedy)


def _examined(site: Site) -> Iterator[Result]:
    """One result for each enrolled user, made once."""
    if site.examined is None:
        places = Places(site.config)
        site.examined = [_examine(places, entry) for entry in site.users if "problem" not in entry]
    yield from site.examined


def _examine(places: Places, entry: dict[str, Any]) -> Result:
    result = Result(entry["user"], tags=False)
    try:
        place = places.of(entry["user"])
        if not os.path.lexists(place.maildir):
            return result  # no mail has arrived yet
        key_ids = frozenset(bytes.fromhex(key["id"]) for key in entry["keys"])
        jobs = len(os.sched_getaffinity(0))
        Examination(result, place, Expected(key_ids, (), place.compressed), jobs).run([])
    except MailsealError as exc:
        result.cannot(str(exc))
    return result


def _database(site: Site) -> Iterator[Outcome]:
    """Enrolled users, and a name that nobody has: for that, "no such user" is a good answer."""
    if site.config.delivery.userdb != "dovecot":
        raise NotUsed
    drivers = {block.driver for block in site.dovecot("lmtp").all("userdb")} - {"lua", "prefetch"}
    remedy = (
        f"look at the database that Dovecot asks (userdb {', '.join(sorted(drivers))}); "
        "`journalctl -t dovecot -n 20` has the reason"
    )
    source = userdb.from_config(site.config, {})
    try:
        unknown = [name for name in _sample(site) if source.lookup(name) is None]
        source.lookup(_NOBODY)
    except MailsealError as exc:
        yield failed(
            f"Dovecot cannot look up users ({exc}): mail is deferred, and nobody can log in", remedy
        )
    else:
        if unknown:
            yield failed(
                f"Dovecot's user database does not know enrolled users ({_some(unknown)}): their "
                "mail is refused",
                remedy,
            )


def _sample(site: Site) -> list[str]:
    """Some enrolled users; none if the agent does not answer, which another check reports."""
    try:
        return [entry["user"] for entry in site.users[:_SAMPLE]]
    except MailsealError:
        return []


def _plain_user(site: Site) -> Iterator[Outcome]:
    """A lookup, which must work in the same way while the key agent is down."""
    user = site.plain_user
    if user is None:
        raise NotUsed
    account = userdb.from_config(site.config, settings.known(site.config)).lookup(user)
    if account is None:
        yield warned(f"Dovecot's user database does not know {user}", f"run `doveadm user {user}`")
        return
    if not is_told_how_to_save(account.extra):
        yield failed(
            f"Dovecot does not ask mailseal's userdb for {user}: it could store mail of enrolled "
            "users in clear",
            "run `mailseal check-config`",
        )
        return
    fields = account.extra
    named = fields.get("mail_crypt_global_public_key") or fields.get("crypt_global_public_key_file")
    if PublicStore(site.config.public_dir).lookup(user) is not None:
        yield failed(
            f"{user} has a public key: this user is enrolled", f"run `mailseal status {user}`"
        )
        return
    agent = "" if site.agent_answers else ", and the key agent does not run"
    key = "with the key of the site" if named else "without a key"
    yield passed(f"{user} is not enrolled, and is found {key}{agent}")


CHECKS = (
    Check(
        "user-database",
        "Dovecot's user database answers, and knows the enrolled users",
        "run `journalctl -t dovecot -n 20`",
        _database,
    ),
    Check(
        "keyrings",
        "all keyrings can be read, and the public keys are theirs",
        "run `mailseal status`",
        _keyrings,
    ),
    Check(
        "recovery",
        "each enrolled user has a recovery method",
        "run `mailseal status --without-recovery`",
        _ways_in,
    ),
    Check(
        "stored-mail",
        "the stored mail of enrolled users is sealed",
        "run `mailseal verify --all`",
        _mail,
    ),
    Check(
        "old-caches",
        "no index of an enrolled user has text of mails in clear on a disk",
        "run `mailseal seal --all`",
        _caches,
    ),
    Check(
        "plain-user",
        "a user who is not enrolled does not depend on the key agent (with --plain-user)",
        "run `mailseal check-config`",
        _plain_user,
    ),
)
