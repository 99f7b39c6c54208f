# SPDX-License-Identifier: MIT
"""Decides what the userdb returns in Dovecot 2.3 without Lua: how mail of a user is saved.

The checkpassword program and the process for lookups (lookups.py) ask here.  mailseal.lua decides
in the same way; tests/e2e/test_keyless.py tests both.

CONTRACT
    answer() returns the userdb fields, without a prefix, or None for a user who is unknown here.
    TemporaryError: the lookup is refused.  Then Dovecot saves nothing, and mail waits.
    Only built-in modules are imported here: the checkpassword program starts at each login.
"""

from __future__ import annotations

from mailseal.errors import TemporaryError

PUBLIC_FIELD = "mail_crypt_global_public_key"
SEALED = {"mail_crypt_save_version": "2"}
PLAIN = {"mail_crypt_save_version": "0"}

# Loads mail_crypt, even if other fields or a `protocol` block do not.  The unknown kind of lock
# stops mbox, and the folder that cannot exist stops attachments in files of their own, which
# mail_crypt does not seal: see mailseal.lua.
_LOADED = {
    "mail_plugins+": " mail_crypt",
    "mbox_write_locks": "mail_crypt_cannot_seal_mbox",
    "mail_attachment_fs": "posix:prefix=/dev/null/mail_crypt_cannot_seal_attachments",
}
# Mail formats that mail_crypt seals.
_SEALABLE = ("", "maildir", "sdbox", "mdbox", "dbox")


class Lookup:
    """What Dovecot knows at a lookup.

    key        the public key that mailseal's passdb has returned; empty if there is none
    undoing    the values of other userdbs' fields with which Dovecot would not seal
    mail       the mail locations of other userdbs
    mechanism  empty if it is not a login, but a delivery or doveadm
    """

    __slots__ = ("key", "mail", "master", "mechanism", "service", "undoing")

    def __init__(
        self, key: str, undoing: str, mail: list[str], mechanism: str, service: str, master: str
    ) -> None:
        self.key, self.undoing, self.mail = key, undoing, mail
        self.mechanism, self.service, self.master = mechanism, service, master

    @property
    def by_master(self) -> bool:
        """Whether a master user has logged in, who gets no key."""
        return bool(self.mechanism and self.master)


def answer(lookup: Lookup, published: str | None, *, behind: bool) -> dict[str, str] | None:
    """The fields for a user with this public key; None: certainly not enrolled.

    behind: whether other userdbs know the users; otherwise, only enrolled users exist.
    """
    if published is None:
        if not behind:
            return None
        if lookup.key:
            raise TemporaryError(
                "the login has a key, but the user is not enrolled on this host: a userdb has "
                "changed the name, or the user was enrolled or unenrolled just now"
            )
        return PLAIN
    if why := _refusal(lookup, published):
        raise TemporaryError(why)
    return {PUBLIC_FIELD: published, **SEALED, **_LOADED}


def _refusal(lookup: Lookup, published: str) -> str:
    """Why a lookup of an enrolled user is refused; empty if it is not."""
    formats = [location.partition(":")[0] for location in lookup.mail]
    if lookup.undoing or any(format_ not in _SEALABLE for format_ in formats):
        return "a userdb field may turn sealing off: mail, mail_plugin_dir or plugin/mail_crypt_…"
    if not lookup.mechanism or lookup.key == published:
        return ""
    if lookup.by_master:
        if lookup.service != "pop3":
            return ""
        return "no POP3 for a master user: Dovecot would return empty mails"
    if lookup.key:
        return (
            "the login has another key than this host seals with: a userdb has changed the name, "
            "or the user got a new key pair just now"
        )
    return (
        "the login of an enrolled user came without the user's key: is mailseal's passdb asked, "
        "and before any userdb changes the name? Or was the user enrolled just now?"
    )
