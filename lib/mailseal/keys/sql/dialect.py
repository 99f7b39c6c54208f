# SPDX-License-Identifier: MIT
"""What differs between the databases: connecting, locks, notifications, meanings of errors.

Everything else is SQL that both understand, with %s for a parameter.
"""

from __future__ import annotations

import enum
from typing import Any, Protocol

from mailseal.database_address import Address

CONNECT_WITHIN = 3
"""Seconds to connect to one host."""

STATEMENT_WITHIN = 10
"""Seconds after which the server cancels a statement or stops waiting for a lock."""

CHANNEL = "mailseal"


class Meaning(enum.Enum):
    """The meaning of an exception of a driver."""

    LOST = "the connection is broken, or its server is not (or no longer) the primary"
    TAKEN = "a row with this key exists"
    BUSY = "a time limit, a deadlock, or another write that came first"
    OTHER = "anything else"


class Dialect(Protocol):
    """One kind of database.  Its connections commit each statement, except in BEGIN … COMMIT."""

    name_type: str
    bytes_type: str
    table_end: str
    notifies: bool
    """Whether wait() returns at once when something has changed."""

    def connect(self, address: Address, password: str | None) -> Any:
        """Connect to the host that accepts writes."""
        ...

    def prepare(self, connection: Any) -> None:
        """Prepare a new connection; may ask the server."""
        ...

    def meaning(self, exc: Exception) -> Meaning:
        """The meaning of an exception of the driver."""
        ...

    def refuses(self, exc: Exception) -> bool:
        """Whether connect() failed because the server does not let this user in."""
        ...

    def fileno(self, connection: Any) -> int:
        """The file descriptor of the connection's socket."""
        ...

    def lock(self, cursor: Any, number: int) -> bool:
        """Take a lock that ends with the connection; False if it stays taken for too long."""
        ...

    def unlock(self, cursor: Any, number: int) -> None:
        """Release the lock."""
        ...

    def notify(self, cursor: Any) -> None:
        """Notify all who wait() when this transaction is committed."""
        ...

    def listen(self, cursor: Any) -> None:
        """Prepare for wait()."""
        ...

    def wait(self, connection: Any, seconds: float) -> None:
        """Wait until something has changed, or for this time at most."""
        ...
