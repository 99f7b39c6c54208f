# SPDX-License-Identifier: MIT
"""A vault with the file stores of one folder, and the fastest Argon2id profile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mailseal.crypto import kdf
from mailseal.errors import WrongPassword
from mailseal.keys import opening
from mailseal.keys.keystore import Keystore
from mailseal.keys.public import PublicStore
from mailseal.keys.sql.database import Database
from mailseal.login.vault import Vault

CHEAP = kdf.PROFILES["insecure-testing"]
USER = "alice@example.org"


def open_vault(folder: Path, *, database: Database | None = None, **options: Any) -> Vault:
    """The vault of one process: a second one for this folder shares only the files.

    With a `database`, the folder has only the copy of the public keys, for a Replica.
    `options` go to Vault: `derive`, `clock`.
    """
    if database is not None:
        copy = PublicStore(str(folder / "public"))
        copy.prepare(replica=True)
        keyrings, keys = opening.rows(database)
        return Vault(keyrings, keys, curve="prime256v1", cost=CHEAP, copy=copy, **options)
    store, public = Keystore(str(folder / "keys")), PublicStore(str(folder / "public"))
    store.prepare()
    public.prepare()
    return Vault(store, public, curve="prime256v1", cost=CHEAP, **options)


def folder_of(store: object) -> Path:
    assert isinstance(store, Keystore | PublicStore)
    return Path(store.folder)


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do some work in a child process that kills itself before its disk change number `step`.

    Returns whether there were so many changes.
    """
    child = os.fork()
    if child == 0:
        left = step

        def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        for name in ("open", "write", "fsync", "fchmod", "rename", "link", "unlink", "mkdir"):
            setattr(os, name, wrap(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def opens(vault: Vault, password: bytes) -> bool:
    try:
        vault.unlock(USER, password)
    except WrongPassword:
        return False
    return True
