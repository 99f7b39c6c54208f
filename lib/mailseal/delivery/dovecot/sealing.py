# SPDX-License-Identifier: MIT
"""Determines from userdb fields whether Dovecot will seal mail that it stores for a user.

mailseal's userdb returns the key and the plugin that uses it:

    2.3   mail_plugins+= mail_crypt            mail_crypt_global_public_key=…
                                               mail_crypt_save_version=2
    2.4   */mail_plugins/mail_crypt=yes        crypt_global_public_key_file=inline:…
                                               crypt_write_algorithm=aes-256-gcm-sha256, and
                                               the same with "*/" before it

So Dovecot's settings need not be known: userdb fields override the configuration, also that in
`protocol lmtp` (tested on 2.3.19 and 2.4.1 without mail_crypt there).  Only other userdb fields
can override these fields.  Dovecot applies fields in the order of their names, and some have
several names.  So the rule is: of the fields below, only those above are allowed, in that form.

    mail_plugins, mail_plugin_dir      remove the plugin.  2.3: `mail_plugins=` is applied
                                       before ours, and harmless.  2.4: it replaces the list
    mail_crypt_…, crypt_…              another key, no algorithm, save version 0
    mail_attachment_…                  attachments in separate files, which are not sealed;
                                       used by sdbox and mdbox, not by Maildir.  mailseal's userdb
                                       turns them off: by an empty mail_ext_attachment_path (2.4),
                                       or a folder that cannot exist in mail_attachment_fs (2.3)
    mail, mail_driver, …location       a format that mail_crypt does not seal (mbox, imapc)
"""

from __future__ import annotations

from mailseal.crypto.eckeys import PublicKey
from mailseal.errors import MailsealError

OURS = {
    "mail_plugins+",
    "mail_crypt_global_public_key",
    "mail_crypt_save_version",
    "*/mail_plugins/mail_crypt",
    "*/crypt_write_algorithm",
    "crypt_global_public_key_file",
    "crypt_write_algorithm",
    "mail_attachment_fs",
}
"""Fields of mailseal's userdb."""

_SUSPECT = ("mail_plugin", "mail_crypt", "crypt_", "mail_attachment_", "mail_ext_attachment_")
_LOCATIONS = ("mail", "mail_location", "location", "mail_driver")
ATTACHMENTS = ("mail_attachment_dir", "mail_ext_attachment_path")
"""The settings for such attachments, in 2.3 and 2.4."""

SEALABLE = ("maildir", "sdbox", "mdbox", "dbox")
"""Mail formats that mail_crypt seals (MAIL_STORAGE_CLASS_FLAG_BINARY_DATA in Dovecot)."""


def is_told_how_to_save(fields: dict[str, str]) -> bool:
    """Whether mailseal's userdb has answered: it returns how mail is saved, for every user."""
    return "mail_crypt_save_version" in fields or "crypt_write_algorithm" in fields


def why_not(fields: dict[str, str], key: PublicKey) -> str | None:
    """Why Dovecot would not seal with `key`, as a text for the log; None if it will."""
    in_24 = "crypt_global_public_key_file" in fields
    format_ = fields.get("mail_driver") or fields.get("mail", "maildir").partition(":")[0]
    for name, value in fields.items():
        if name.removeprefix("*/") in ATTACHMENTS and (format_ == "maildir" or not value):
            continue
        if name not in OURS and _undoes(name, value, in_24):
            return f"{name}={value}, of the userdb or of Dovecot's settings, may turn sealing off"
    if in_24:
        named = fields["crypt_global_public_key_file"].removeprefix("inline:")
        loads = fields.get("*/mail_plugins/mail_crypt") == "yes" and "mail_plugins+" not in fields
        algorithms = [fields.get(f"{where}crypt_write_algorithm", "") for where in ("", "*/")]
        seals = all(algorithms)
    else:
        named = fields.get("mail_crypt_global_public_key", "")
        plugins = fields.get("mail_plugins+", "")
        # Without the space, Dovecot would append the name to the last plugin's name.
        loads = plugins[:1] in (" ", ",") and "mail_crypt" in plugins.replace(",", " ").split()
        seals = fields.get("mail_crypt_save_version") == "2"
        seals = seals and "*/crypt_write_algorithm" not in fields
    if not named:
        return "the userdb returns no public key to Dovecot"
    if not loads:
        return "the userdb does not make Dovecot load mail_crypt for this user"
    try:
        same = PublicKey.parse(named).key_id == key.key_id
    except MailsealError:
        same = False
    if not same:
        return "the userdb returns another public key to Dovecot"
    if not seals:
        return "the userdb returns the public key to Dovecot, but no setting that makes it seal"
    return None


def _undoes(name: str, value: str, in_24: bool) -> bool:
    parts = name.removesuffix("+").split("/")
    if parts[-1] in _LOCATIONS and value:
        return value.partition(":")[0].lower() not in SEALABLE
    if not any(part.startswith(_SUSPECT) for part in parts):
        return False
    if name == "mail_plugins":
        return in_24
    # An additional plugin, in the form of 2.4, is harmless.
    return not (len(parts) == 2 and parts[0] == "mail_plugins" and parts[1] != "mail_crypt")
