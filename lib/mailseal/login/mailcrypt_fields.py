# SPDX-License-Identifier: MIT
"""Keys in the words of Dovecot's mail_crypt plugin: userdb fields, without a prefix.

Private keys are wrapped with a random one-time password.  Dovecot's debug logs
show every userdb field whose name does not contain "pass" in clear; what they
show of a key this way opens nothing.  One PBKDF2 round is enough: the
password has 128 random bits.

An empty value would break the login, so a field that has nothing to say is left out.

LIMIT
    All fields of a login stand in one line, and Dovecot takes no line over 8,192
    bytes.  In 2.3 auth refuses a longer one of its workers (Lua), where each name has
    "userdb_" before it; in 2.3 and 2.4 the mail process refuses it of auth.  Seen with
    P-256: 27 pairs log in through Lua in 2.3, 28 through the checkpassword helper, 32 in
    2.4.  So the number of key pairs is bounded: see room().
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
"""Bytes of that line kept free for the rest: user name, home, mail, uid, gid, quota, and what
a site's userdb adds.  They are about 200 with a passwd-file."""

_PREFIX = {"2.3": len("userdb_"), "2.4": 0}
_PASSWORD_SIZE = 16
_SALT_SIZE = 1


def public_fields(version: str, public: PublicKey) -> Named:
    """What seals new mail: for deliveries, where no password is at hand.  version: "2.3", "2.4".

    The key brings along the plugin that uses it.  Fields win over the configuration, so a
    `mail_plugins` of a `protocol` block cannot leave it out; in 2.3 they are applied in the
    order of their names, so a field `mail_plugins` of another userdb does no harm either.
    delivery/dovecot/sealing.py wants to see exactly these.
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


def login_fields(version: str, keys: Sequence[PrivateKey]) -> Named:
    """What opens and seals: `keys` has the current pair last, as a keyring does.

    Raises TemporaryError if Dovecot could not take the line.
    """
    newest_first = keys[::-1]
    password = base64.urlsafe_b64encode(os.urandom(_PASSWORD_SIZE)).rstrip(b"=")
    wrapped = [
        key.dovecot_wrapped(password, salt=number.to_bytes(_SALT_SIZE, "big"))
        for number, key in enumerate(newest_first)
    ]
    found = _fields(version, newest_first[0].public, wrapped, password.decode())
    if _size(version, found) > LINE_LIMIT:
        raise TemporaryError(
            f"{len(keys)} key pairs are more than Dovecot takes at a login",
            hint="drop old ones with `mailseal drop-key USER KEYID`",
        )
    return found


def line_size(version: str, publics: Sequence[PublicKey]) -> int:
    """Bytes that the fields of a login with these pairs (oldest first) take at most."""
    wrapped = ["x" * longest_wrapped(public, _SALT_SIZE) for public in reversed(publics)]
    password = "x" * len(base64.b64encode(bytes(_PASSWORD_SIZE)).rstrip(b"="))
    return _size(version, _fields(version, publics[-1], wrapped, password))


def room(version: str, publics: Sequence[PublicKey], curve: str) -> int:
    """How many more key pairs on this curve a login could carry, RESERVE kept free."""
    new = PrivateKey.generate(curve).public
    now = line_size(version, publics)
    limit = LINE_LIMIT - RESERVE
    more = max(0, limit - now) // (line_size(version, [*publics, new]) - now)
    # The names become longer with the numbers in them.
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
    """Bytes in Dovecot's line.  Nothing in these values needs an escape."""
    return sum(_PREFIX[version] + len(name) + 1 + len(value) + 1 for name, value in named)
