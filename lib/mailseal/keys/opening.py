# SPDX-License-Identifier: MIT
"""Opens the stores that the configuration names.

FAILURES
    ConfigError: a package is missing, or the file with the password cannot be used.
    Opening does not access the stores: a database is connected to when it is first used.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from mailseal.config import Config
from mailseal.errors import ConfigError
from mailseal.keys.keystore import Keystore
from mailseal.keys.public import PublicStore
from mailseal.keys.stores import KeyringStore, PublicKeys

if TYPE_CHECKING:
    from mailseal.keys.sql.database import Database

FILES = "files"


def files(config: Config) -> tuple[Keystore, PublicStore]:
    """The stores in the folders of state_dir."""
    return Keystore(config.keys_dir), PublicStore(config.public_dir)


def stores(config: Config) -> tuple[KeyringStore, PublicKeys, Database | None]:
    """Keyrings and public keys for the agent, and their database."""
    if config.keys.store == FILES:
        return *files(config), None
    found = database(config.keys.store, config.keys.store_password, option="keys.store")
    return *rows(found), found


def copy(config: Config) -> PublicStore | None:
    """This host's copy of the public keys; None if they are not in a database."""
    return None if config.keys.store == FILES else PublicStore(config.public_dir)


def rows(found: Database) -> tuple[KeyringStore, PublicKeys]:
    """The stores in a database."""
    from mailseal.keys.sql.hosts import Hosts
    from mailseal.keys.sql.keyrings import SqlKeyrings
    from mailseal.keys.sql.public import SqlPublicKeys

    return SqlKeyrings(found), SqlPublicKeys(found, Hosts(found))


def database(
    store: str,
    password_file: str | None,
    *,
    any_schema: bool = False,
    option: str | None = None,
    section: str = "keys",
) -> Database:
    """The database with this address, which is in this option.

    `section`: the section of mailseal.yaml with store_password.
    """
    from mailseal.database_address import parse
    from mailseal.keys.sql.database import Database

    password = None if password_file is None else _password(password_file)
    return Database(
        parse(store),
        password=password,
        any_schema=any_schema,
        if_refused=option and _if_refused(option, section, password_file),
    )


def _if_refused(option: str, section: str, password_file: str | None) -> str:
    if password_file is None:
        return (
            f"check the user in {option}; if the database asks for a password, set "
            f"{section}.store_password"
        )
    return f"check the user in {option}, and the password in {password_file}"


def role(store: str, user: str) -> str:
    """The database user of a service that runs as this user."""
    from mailseal.database_address import parse

    return user if store == FILES else parse(store).user or user


def for_replica(config: Config) -> Database:
    """The database with the address of mailseal-replica.  Raises ConfigError if there is none."""
    store = config.replica.store or config.keys.store
    if store == FILES:
        raise ConfigError(
            "option keys.store: it is files, so there is nothing to copy",
            hint="mailseal-replica is for keys in a database: see docs/several-hosts.md",
        )
    option = "replica.store" if config.replica.store else "keys.store"
    return database(store, config.replica.store_password, option=option, section="replica")


def _password(path: str) -> str:
    """The first line of a file that others cannot read."""
    try:
        with open(path, encoding="utf-8") as stream:
            if os.fstat(stream.fileno()).st_mode & stat.S_IRWXO:
                raise ConfigError(
                    f"everybody can read the password in {path}", hint=f"run `chmod o= {path}`"
                )
            return stream.readline(4096).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise ConfigError(f"cannot read the password in {path}: {why}") from None
