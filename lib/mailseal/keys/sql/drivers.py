# SPDX-License-Identifier: MIT
"""Chooses the dialect of a database, and imports its driver."""

from __future__ import annotations

from mailseal.database_address import Address
from mailseal.errors import ConfigError
from mailseal.keys.sql.dialect import Dialect


def dialect_of(address: Address) -> Dialect:
    """The dialect of this database.  Imports the driver; ConfigError if it is not installed."""
    package = {"postgresql": "python3-psycopg", "mysql": "python3-pymysql"}[address.kind]
    try:
        if address.kind == "postgresql":
            from mailseal.keys.sql.postgresql import Postgresql

            return Postgresql()
        from mailseal.keys.sql.mariadb import Mariadb

        return Mariadb()
    except ImportError:
        raise ConfigError(
            f"option keys.store: {address.kind} needs the package {package}",
            hint=f"apt-get install {package}",
        ) from None
