# SPDX-License-Identifier: MIT
"""Checks whether mail_crypt can seal what Dovecot saves, by the settings of the mail location.

mail_crypt does not seal mail in mbox format, nor the attachments that sdbox and mdbox store in
separate files.  mailseal's userdb refuses both (mailseal.lua), so enrolled users cannot use mbox
at all, nor read such attachments.  `mailseal enroll` refuses in both cases: see require().
"""

from __future__ import annotations

from collections.abc import Iterator

from mailseal.admin import shipped
from mailseal.admin.finding import Finding, error
from mailseal.config import Config
from mailseal.delivery.dovecot import settings
from mailseal.delivery.dovecot.sealing import ATTACHMENTS
from mailseal.delivery.dovecot.userdb import DovecotUserdb
from mailseal.doveconf import Block, Doveconf, DoveconfError
from mailseal.errors import TemporaryError

_UNSEALED = ("mbox", "imapc")
_APART = ("sdbox", "mdbox", "dbox")
# in 2.3, in a namespace of 2.3, in 2.4
_LOCATIONS = ("mail_location", "location", "mail_driver")
_OWN = ("mail", "mail_location", "mail_driver")


def findings(doveconf: Doveconf) -> Iterator[Finding]:
    """The findings for check-config."""
    found = doveconf.settings("imap")
    apart = next(filter(found.get, ATTACHMENTS), "")
    for _, text in _problems(found):
        remedy = shipped.put(f"{apart} =") if apart and f"remove {apart}" in text else ""
        yield error(text, remedy)


def require(config: Config, user: str) -> None:
    """Raise TemporaryError if mail of this user could not be sealed with Dovecot's settings.

    Also if the userdb does not answer.  Returns if Dovecot's settings are not known here.
    """
    doveconf = settings.of_running(config)
    try:
        found = list(_problems(doveconf.settings("imap"))) if doveconf else []
    except DoveconfError:
        return
    account = DovecotUserdb(config).lookup(user) if found else None
    has_own = account is not None and any(account.extra.get(name) for name in _OWN)
    for everywhere, text in found:
        if not (everywhere and has_own):
            raise TemporaryError(
                f"{user} cannot be enrolled: {text}",
                hint="change Dovecot's settings, then run `mailseal check-config`",
            )


def _problems(found: Block) -> Iterator[tuple[bool, str]]:
    """Whether a location in the user's own userdb entry would replace it, and the text."""
    apart = next(filter(found.get, ATTACHMENTS), None)
    for block in (found, *found.all("namespace")):
        everywhere = block is found
        where = "" if everywhere else f" of the namespace {block.get('prefix')!r}"
        for name in filter(block.get, _LOCATIONS):
            format_ = block.get(name).partition(":")[0]
            if format_.lower() in _UNSEALED:
                yield (
                    everywhere,
                    f"Dovecot's {name}{where} has the format {format_}, which mail_crypt cannot "
                    "seal: enrolled users can neither read nor save mail there; use Maildir",
                )
            if apart and format_.lower() in _APART:
                yield (
                    everywhere,
                    f"Dovecot's {name}{where} has the format {format_}, and {apart} is set: "
                    "mail_crypt does not seal attachments in separate files; enrolled users "
                    "could not read mails that have such attachments, and Dovecot 2.3 could not "
                    f"save any for them; remove {apart}, or use Maildir",
                )
