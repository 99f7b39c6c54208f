# SPDX-License-Identifier: MIT
"""PostgreSQL, by psycopg 3."""

from __future__ import annotations

import re
import select
from typing import Any

import psycopg

from mailseal.database_address import Address
from mailseal.keys.sql.dialect import CHANNEL, CONNECT_WITHIN, STATEMENT_WITHIN, Meaning

_SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"

# statement_timeout does not end a COMMIT that waits for a standby: PostgreSQL stops this timer
# before it commits.  synchronous_commit: an acknowledged commit survives a crash,
# and a failover to a synchronous standby, also if that standby crashes at once.
_SESSION = (
    f"-c statement_timeout={STATEMENT_WITHIN}s -c lock_timeout={STATEMENT_WITHIN}s "
    f"-c idle_in_transaction_session_timeout={3 * STATEMENT_WITHIN}s "
    "-c default_transaction_isolation=read\\ committed"
)
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": STATEMENT_WITHIN * 1000,
}


# libpq has no code for the failure of a connection.  A server that speaks another language is
# not recognised; then the error has its text only.
_REFUSED = re.compile(
    r'authentication failed|no password supplied|pg_hba\.conf|(role|database) ".*" does not exist|'
    r"permission denied for database|is not permitted to log in"
)


class Postgresql:
    """See Dialect."""

    name_type = "bytea"
    bytes_type = "bytea"
    table_end = ""
    notifies = True

    def connect(self, address: Address, password: str | None) -> Any:
        given: dict[str, Any] = {"dbname": address.database, "user": address.user_name}
        if address.is_remote:
            given.update(sslmode="verify-full", sslrootcert=_SYSTEM_ROOTS)
        given.update(address.options)
        if password is not None:
            given["password"] = password
        # One call for each host: libpq does not try the next host if the first one accepts the
        # connection and then closes it or does not answer.
        places: list[dict[str, Any]] = [
            {"host": host, "port": port} for host, port in address.hosts
        ]
        places = places or [{"host": path} for path in given.pop("host", "").split(",")]
        failure: Exception | None = None
        for place in places:
            try:
                return self._connect({**given, **place})
            except psycopg.OperationalError as exc:
                if failure is None or not self.refuses(failure):
                    failure = exc
        raise failure or psycopg.OperationalError

    def _connect(self, given: dict[str, Any]) -> Any:
        return psycopg.connect(
            autocommit=True,
            connect_timeout=CONNECT_WITHIN,
            options=_SESSION,
            target_session_attrs="read-write",
            application_name="mailseal",
            **_KEEPALIVE,
            **{name: value for name, value in given.items() if value != ""},
        )

    def prepare(self, connection: Any) -> None:
        # A pooler or a plan from before a migration must not matter.
        connection.prepare_threshold = None
        (mode,) = connection.execute("SHOW synchronous_commit").fetchone()
        if mode not in ("on", "remote_apply"):
            connection.execute("SET synchronous_commit = on")

    def meaning(self, exc: Exception) -> Meaning:
        if isinstance(exc, psycopg.errors.UniqueViolation):
            return Meaning.TAKEN
        busy = (
            psycopg.errors.QueryCanceled,
            psycopg.errors.LockNotAvailable,
            psycopg.errors.TransactionRollback,
        )
        if isinstance(exc, busy):
            return Meaning.BUSY
        # 25006: the primary has become a standby.
        lost = (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            psycopg.errors.ReadOnlySqlTransaction,
        )
        return Meaning.LOST if isinstance(exc, lost) else Meaning.OTHER

    def refuses(self, exc: Exception) -> bool:
        return _REFUSED.search(str(exc)) is not None

    def fileno(self, connection: Any) -> int:
        return int(connection.fileno())

    def lock(self, cursor: Any, number: int) -> bool:
        try:
            cursor.execute("SELECT pg_advisory_lock(%s)", (number,))
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            return False
        return True

    def unlock(self, cursor: Any, number: int) -> None:
        cursor.execute("SELECT pg_advisory_unlock(%s)", (number,))

    def notify(self, cursor: Any) -> None:
        cursor.execute(f"NOTIFY {CHANNEL}")

    def listen(self, cursor: Any) -> None:
        cursor.execute(f"LISTEN {CHANNEL}")

    def wait(self, connection: Any, seconds: float) -> None:
        pgconn = connection.pgconn
        if pgconn.notifies() is None:
            select.select([connection.fileno()], [], [], seconds)
            pgconn.consume_input()
        while pgconn.notifies() is not None:
            pass
