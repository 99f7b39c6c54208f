# SPDX-License-Identifier: MIT
"""Keys in the words of Dovecot's mail_crypt plugin: userdb fields, without a prefix.

Private keys are wrapped with a random one-time password.  Dovecot's debug logs
show every userdb field whose name does not contain "pass" in clear; what they
show of a key this way opens nothing.  One PBKDF2 round is enough: the
password has 256 random bits.

An empty value would break the login, so a field that has nothing to say is left out.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

from mailseal.crypto.eckeys import PrivateKey, PublicKey

Named = list[tuple[str, str]]


def public_fields(version: str, public: PublicKey) -> Named:
    """What seals new mail: for deliveries, where no password is at hand.  version: "2.3", "2.4"."""
    if version == "2.4":
        return [
            ("crypt_write_algorithm", "aes-256-gcm-sha256"),
            ("crypt_global_public_key_file", _inline(public.dovecot_string())),
        ]
    return [
        ("mail_crypt_global_public_key", public.dovecot_string()),
        ("mail_crypt_save_version", "2"),
    ]


def login_fields(version: str, keys: Sequence[PrivateKey]) -> Named:
    """What opens and seals: `keys` has the current pair last, as a keyring does."""
    newest_first = list(reversed(keys))
    found = public_fields(version, newest_first[0].public)
    if version == "2.4":
        names = [f"keypass{number}" for number in range(1, len(keys) + 1)]
        found.append(("crypt_global_private_key", " ".join(names)))
        for name, key in zip(names, newest_first, strict=True):
            password = os.urandom(32).hex()
            wrapped = _inline(key.dovecot_wrapped(password.encode()))
            prefix = f"crypt_global_private_key/{name}/crypt_private_key"
            found += [(f"{prefix}_file", wrapped), (f"{prefix}_password", password)]
        return found
    for number, key in enumerate(newest_first, 1):
        password = os.urandom(32).hex()
        name = "mail_crypt_global_private_key" + ("" if number == 1 else str(number))
        wrapped = key.dovecot_wrapped(password.encode())
        found += [(name, wrapped), (f"{name}_password", password)]
    return found


def _inline(text: str) -> str:
    return "inline:" + base64.b64encode(text.encode()).decode()
