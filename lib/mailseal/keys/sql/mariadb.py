# SPDX-License-Identifier: MIT
"""MariaDB, by PyMySQL."""

from __future__ import annotations

import ssl
import time
from typing import Any

import pymysql
from pymysql.constants import CLIENT, ER

from mailseal.database_address import Address
from mailseal.keys.sql.dialect import CONNECT_WITHIN, STATEMENT_WITHIN, Meaning

_ASK_EVERY = 0.2

_SOCKET = "/run/mysqld/mysqld.sock"

_SESSION = (
    f"SET SESSION innodb_lock_wait_timeout = {STATEMENT_WITHIN}, "
    f"lock_wait_timeout = {STATEMENT_WITHIN}, max_statement_time = {STATEMENT_WITHIN}, "
    "tx_isolation = 'READ-COMMITTED', sql_mode = 'STRICT_ALL_TABLES'"
)

# --read-only, and a transaction that is read only; 1836: read only mode of the storage engine.
_READ_ONLY = (1290, 1792, 1836)
# Lock wait time-out, deadlock, max_statement_time, interrupted.
_BUSY = (1205, 1213, 1969, 1317)

# Wrong user, password, database, plugin or host; an expired password; a locked account.
_REFUSED = (1044, 1045, 1049, 1130, 1524, 1698, 1820, 1862, 4151)


class _NotThePrimary(pymysql.err.OperationalError):  # type: ignore[misc]
    pass


class Mariadb:
    """See Dialect."""

    name_type = "varbinary(255)"
    bytes_type = "mediumblob"
    table_end = " ENGINE=InnoDB"
    notifies = False

    def connect(self, address: Address, password: str | None) -> Any:
        where: list[dict[str, Any]] = [{"host": host, "port": port} for host, port in address.hosts]
        if not where:
            where = [{"unix_socket": address.options.get("socket", _SOCKET)}]
        given: dict[str, Any] = {"user": address.user_name, "database": address.database}
        if password is not None:
            given["password"] = password
        if address.is_remote or "ssl_ca" in address.options:
            given["ssl"] = _tls(address)
        failure: Exception | None = None
        for place in where:
            try:
                return self._connect({**place, **given})
            except (pymysql.err.OperationalError, OSError) as exc:
                if failure is None or not self.refuses(failure):
                    failure = exc
        raise failure or _NotThePrimary

    def _connect(self, given: dict[str, Any]) -> Any:
        connection = pymysql.connect(
            autocommit=True,
            charset="utf8mb4",
            client_flag=CLIENT.FOUND_ROWS,
            connect_timeout=CONNECT_WITHIN,
            read_timeout=CONNECT_WITHIN,
            init_command=_SESSION,
            **given,
        )
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@global.read_only")
            if int(cursor.fetchone()[0]):
                connection.close()
                raise _NotThePrimary(1290, "the server is read only")
        return connection

    def prepare(self, connection: Any) -> None:
        # This limit was for the greeting; from here on Patience limits the time.
        connection._read_timeout = None

    def meaning(self, exc: Exception) -> Meaning:
        code = exc.args[0] if exc.args else None
        if isinstance(exc, pymysql.err.IntegrityError) and code == ER.DUP_ENTRY:
            return Meaning.TAKEN
        if code in _BUSY:
            return Meaning.BUSY
        lost = (pymysql.err.OperationalError, pymysql.err.InterfaceError, OSError, AttributeError)
        if code in _READ_ONLY or isinstance(exc, lost):
            return Meaning.LOST
        return Meaning.OTHER

    def refuses(self, exc: Exception) -> bool:
        return bool(exc.args) and exc.args[0] in _REFUSED

    def fileno(self, connection: Any) -> int:
        return int(connection._sock.fileno())

    def lock(self, cursor: Any, number: int) -> bool:
        cursor.execute("SELECT GET_LOCK(%s, %s)", (_lock_name(number), STATEMENT_WITHIN - 1))
        return bool(cursor.fetchone()[0] == 1)

    def unlock(self, cursor: Any, number: int) -> None:
        cursor.execute("SELECT RELEASE_LOCK(%s)", (_lock_name(number),))

    def notify(self, cursor: Any) -> None:
        pass

    def listen(self, cursor: Any) -> None:
        pass

    def wait(self, connection: Any, seconds: float) -> None:
        # It does not tell: asked this often, a change is on all hosts as soon as with PostgreSQL.
        time.sleep(min(seconds, _ASK_EVERY))


def _lock_name(number: int) -> str:
    return f"mailseal {number}"


def _tls(address: Address) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=address.options.get("ssl_ca"))
    if "ssl_cert" in address.options:
        context.load_cert_chain(address.options["ssl_cert"], address.options.get("ssl_key"))
    return context
