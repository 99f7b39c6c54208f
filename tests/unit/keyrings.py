# SPDX-License-Identifier: MIT
"""Makes a keyring, and changes it as an attacker could."""

from __future__ import annotations

import json
from typing import Any

from mailseal.crypto import kdf
from mailseal.keys import keyring_file
from mailseal.keys.keyring import Opened

CHEAP = kdf.PROFILES["insecure-testing"]
USER = "alice@example.org"


def make(user: str = USER, password: bytes = b"secret", curve: str = "prime256v1") -> Opened:
    opened = Opened.create(user, curve=curve, now=1_700_000_000)
    opened.set_login(password, CHEAP, now=1_700_000_000)
    return opened


def redigest(content: dict[str, Any]) -> bytes:
    """Change a keyring and correct its digest, as an attacker with write access can do."""
    content["digest"] = keyring_file.digest(content)
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
