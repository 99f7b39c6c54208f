# SPDX-License-Identifier: MIT
"""Chooses the dialect of a database, imports its driver, and says why there is no connection."""

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


def why_not(
    dialect: Dialect, address: Address, exc: Exception, if_refused: str | None
) -> tuple[str, str | None]:
    """Why connect() has failed, and what to do; `if_refused`: if the user was not let in."""
    first = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    if dialect.refuses(exc):
        who = address.user_name
        return f"the database {address} does not let {who} log in: {first}", if_refused
    return f"cannot reach the database {address}: {first}", None
