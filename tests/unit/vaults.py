# SPDX-License-Identifier: MIT
"""A vault with the file stores of one folder, and the fastest Argon2id profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mailseal.crypto import kdf
from mailseal.keys.keystore import Keystore
from mailseal.keys.public import PublicStore
from mailseal.login.vault import Vault

CHEAP = kdf.PROFILES["insecure-testing"]


def open_vault(folder: Path, **options: Any) -> Vault:
    """The vault of one process: a second one for this folder shares only the files.

    `options` go to Vault: `derive`, `clock`.
    """
    store, public = Keystore(str(folder / "keys")), PublicStore(str(folder / "public"))
    store.prepare()
    public.prepare()
    return Vault(store, public, curve="prime256v1", cost=CHEAP, **options)
