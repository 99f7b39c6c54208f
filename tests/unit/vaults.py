# SPDX-License-Identifier: MIT
"""A vault over the file stores of one folder, with the cheapest Argon2id there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mailseal.crypto import kdf
from mailseal.keys.keystore import Keystore
from mailseal.keys.public import PublicStore
from mailseal.login.vault import Vault

CHEAP = kdf.PROFILES["insecure-testing"]


def open_vault(folder: Path, **options: Any) -> Vault:
    """As one process has it: a second one for the folder shares nothing but the files.

    `options` go to Vault: `derive`, `clock`.
    """
    store, public = Keystore(str(folder / "keys")), PublicStore(str(folder / "public"))
    store.prepare()
    public.prepare()
    return Vault(store, public, curve="prime256v1", cost=CHEAP, **options)
