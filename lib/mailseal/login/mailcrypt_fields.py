# SPDX-License-Identifier: MIT
"""Keys as fields for Dovecot's plugin mail_crypt: userdb fields, without a prefix.

Private keys are wrapped with a random one-time password.  Dovecot's debug log hides
only fields whose name contains "pass", so it can show the wrapped key, but not the
password that opens it.  One PBKDF2 round is enough: the password has 128 random bits.

An empty value would break the login, so empty fields are omitted.

LIMIT
    All fields of a login are in one line, and Dovecot accepts no line over 8,192
    bytes.  In 2.3, auth refuses a longer line from its workers (Lua), in which each name
    begins with "userdb_"; in 2.3 and 2.4, the mail process refuses it from auth.  Measured
    with P-256: 27 key pairs fit with Lua in 2.3, 28 with the checkpassword program, 32 in
    2.4.  So the number of key pairs is limited: see room().
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

from mailseal.crypto.eckeys import PrivateKey, PublicKey, longest_wrapped
from mailseal.errors import TemporaryError

Named = list[tuple[str, str]]

LINE_LIMIT = 8192
"""Longest line between Dovecot's processes, in bytes (AUTH_WORKER_MAX_LINE_LENGTH,
AUTH_MAX_INBUF_SIZE and MAX_INBUF_SIZE in lib-auth)."""

RESERVE = 1536
"""Bytes of that line reserved for other fields: user name, home, mail, uid, gid, quota, and those
of the site's userdb.  With a passwd-file they need about 350.  `mailseal enroll`, `rotate` and
`rekey` measure them, and refuse if there are more (admin/userdb_size_check.py)."""

_PREFIX = {"2.3": len("userdb_"), "2.4": 0}
_PASSWORD_SIZE = 16
_SALT_SIZE = 1


def public_fields(version: str, public: PublicKey) -> Named:
    """The fields that seal new mail, for deliveries without a password.  version: "2.3", "2.4".

    They also load the plugin.  Fields override the configuration, so `mail_plugins` in a
    `protocol` block has no effect on it.  In 2.3 fields are applied in the order of their
    names, so a field `mail_plugins` of another userdb does no harm either.
    delivery/dovecot/sealing.py expects exactly these fields.
    """
    if version == "2.4":
        return [
            ("*/mail_plugins/mail_crypt", "yes"),
            ("crypt_write_algorithm", "aes-256-gcm-sha256"),
            # The same with "*/" overrides a `protocol` block that has none.
            ("*/crypt_write_algorithm", "aes-256-gcm-sha256"),
            ("crypt_global_public_key_file", f"inline:{public.dovecot_string()}"),
        ]
    return [
        ("mail_plugins+", " mail_crypt"),
        ("mail_crypt_global_public_key", public.dovecot_string()),
        ("mail_crypt_save_version", "2"),
    ]


def login_fields(version: str, keys: Sequence[PrivateKey], seals: PublicKey | None = None) -> Named:
    """The fields that open and seal mail.  In `keys` the current pair is last, as in a keyring.

    `seals`: the key for new mail; None: the current one.

    Raises TemporaryError if the line would be too long for Dovecot.
    """
    newest_first = keys[::-1]
    password = base64.urlsafe_b64encode(os.urandom(_PASSWORD_SIZE)).rstrip(b"=")
    wrapped = [
        key.dovecot_wrapped(password, salt=number.to_bytes(_SALT_SIZE, "big"))
        for number, key in enumerate(newest_first)
    ]
    found = _fields(version, seals or newest_first[0].public, wrapped, password.decode())
    if _size(version, found) > LINE_LIMIT:
        raise TemporaryError(
            f"{len(keys)} key pairs do not fit into a login of Dovecot",
            hint="drop old ones with `mailseal drop-key USER KEYID`",
        )
    return found


def line_size(version: str, publics: Sequence[PublicKey]) -> int:
    """Largest size in bytes of the fields of a login with these pairs (oldest first)."""
    wrapped = ["x" * longest_wrapped(public, _SALT_SIZE) for public in reversed(publics)]
    password = "x" * len(base64.b64encode(bytes(_PASSWORD_SIZE)).rstrip(b"="))
    return _size(version, _fields(version, publics[-1], wrapped, password))


def room(version: str, publics: Sequence[PublicKey], curve: str) -> int:
    """How many more key pairs on this curve fit into a login, without RESERVE."""
    new = PrivateKey.generate(curve).public
    now = line_size(version, publics)
    limit = LINE_LIMIT - RESERVE
    more = max(0, limit - now) // (line_size(version, [*publics, new]) - now)
    # The names contain numbers, so later ones are longer.
    while more and line_size(version, [*publics, *[new] * more]) > limit:
        more -= 1
    return more


def _fields(version: str, public: PublicKey, wrapped: Sequence[str], password: str) -> Named:
    """The fields of a login; `wrapped` has the current pair first."""
    found = public_fields(version, public)
    if version == "2.4":
        # "pass" in a name hides the value from debug logs.
        names = [f"pass{number}" for number in range(1, len(wrapped) + 1)]
        found.append(("crypt_global_private_key", " ".join(names)))
        found.append(("crypt_private_key_password", password))
        for name, text in zip(names, wrapped, strict=True):
            path = f"crypt_global_private_key/{name}/crypt_private_key_file"
            found.append((path, f"inline:{text}"))
        return found
    for number, text in enumerate(wrapped, 1):
        name = "mail_crypt_global_private_key" + ("" if number == 1 else str(number))
        found += [(name, text), (f"{name}_password", password)]
    return found


def _size(version: str, named: Named) -> int:
    """Size in Dovecot's line.  These values need no escapes."""
    return sum(_PREFIX[version] + len(name) + 1 + len(value) + 1 for name, value in named)
