# SPDX-License-Identifier: MIT
"""The same as capacity.py with the keys in PostgreSQL, and the copy of the public keys on a host.

/usr/bin/python3 -m tests.bench.capacity_sql      needs root, PostgreSQL and 12 GB in TMPDIR

The rows are loaded by COPY into the tables that `mailseal init --store` makes.  They are what
enrollments would have left there: the last 100,000 of them are in the list of changes.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mailseal import database_address
from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys import opening
from mailseal.keys.public import PublicStore, encode
from mailseal.keys.sql.database import Database
from mailseal.keys.sql.replica import Replica
from mailseal.keys.sql.transaction import new_stamp
from tests.bench.capacity import FEW, KEYRINGS, MANY, Found, Say, Site, address, measure, users_from
from tests.lab.clusters import postgresql
from tests.lab.place import let_others_in

_CHANGES = 100_000
_LEASE = 3600
_TABLES = {
    "keyrings": ("name", "revision", "body", "change_number", "stamp"),
    "public_keys": ("name", "state", "body", "change_number"),
    "changes": ("number", "stamp", "name"),
}


class SqlSite(Site):
    """A site whose keys are in a PostgreSQL of its own; one host has a copy of the public keys."""

    def __init__(self, folder: Path, users: int, say: Say) -> None:
        folder.mkdir()
        let_others_in(folder)
        self.keys = postgresql(str(folder))
        agent, _ = self.keys.with_roles()
        store = f"keys: {{kdf: insecure-testing, store: '{agent}'}}\n"
        store += f"replica: {{user: {os.getuid()}}}\n"
        super().__init__(folder, users, say, store)
        self.database = self.keys.open()
        self.replica = self.on_a_host()

    def _fill(self) -> None:
        steps = range(0, self.users, 1000)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            list(
                pool.map(
                    _load, [self.keys.server.connect] * len(steps), steps, [self.users] * len(steps)
                )
            )
        self.keys.server.sql("ANALYZE")

    def on_a_host(self) -> Replica:
        """What mailseal-replica runs, as after its start."""
        store = PublicStore(self.public)
        log = logging.getLogger("capacity")
        return Replica(self.database, store, name="host", seconds=_LEASE, log=log)

    def size_mb(self, table: str) -> float:
        """Of a table with its indexes."""
        text = f"SELECT pg_total_relation_size('mailseal_{table}')"
        return int(self.keys.server.sql(text)) / 1e6

    def one_change(self) -> float:
        """Seconds from a new public key in the database to this key in the copy, on disk."""
        user, key = address(self.users - 1), PrivateKey.generate().public
        opening.rows(self.database)[1].publish(user, key)
        seconds = _timed(self.replica.step)
        if PublicStore(self.public).lookup(user) != key:
            raise RuntimeError("the copy does not have the new key")
        return seconds

    def end(self) -> None:
        """Stop everything."""
        self.stop()
        self.database.close()
        self.keys.server.stop()


def _load(connect: dict[str, str], start: int, users: int) -> None:
    """1,000 rows of each table, and the state after the last one."""
    import psycopg

    rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in _TABLES}
    for number, (user, key, keyring) in enumerate(users_from(start), start + 1):
        name, stamp = user.encode(), new_stamp(locks=False)
        if keyring is not None:
            body = keyring.encode()
            rows["keyrings"].append((name, keyring.revision, body, number, stamp))
        rows["public_keys"].append((name, "enrolled", encode(user, key), number))
        if number > users - _CHANGES:
            rows["changes"].append((number, stamp, name))
    with psycopg.connect(**connect) as connection, connection.cursor() as cursor:
        for table, columns in _TABLES.items():
            text = f"COPY mailseal_{table} ({', '.join(columns)}) FROM STDIN"
            with cursor.copy(text) as copy:
                for row in rows[table]:
                    copy.write_row(row)
        if number == users:
            cursor.execute(
                "UPDATE mailseal_state SET last_change = %s, stamp = %s", (number, stamp)
            )


def first_copy(url: str, folder: str) -> dict[str, float]:
    """Fill the copy of a new host: its time, and CPU time and memory of this process."""
    log = logging.getLogger("capacity")
    database, store = Database(database_address.parse(url)), PublicStore(folder)
    seconds = _timed(Replica(database, store, name="host", seconds=_LEASE, log=log).step)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "copy_filled_s": seconds,
        "copy_filled_cpu_s": used.ru_utime + used.ru_stime,
        "copy_filled_rss_mb": used.ru_maxrss * 1024 / 1e6,
    }


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def of_database(site: SqlSite) -> dict[str, float]:
    """Sizes, and the times of the copy on a host."""
    found = {f"{table}_mb": site.size_mb(table) for table in _TABLES}
    # In a process of its own, as on a new host, so that its memory and CPU time can be seen.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found.update(pool.submit(first_copy, site.keys.url, site.public).result())
    found["copy_filled_a_second"] = site.users / found["copy_filled_s"]
    found["nothing_new_ms"] = statistics.median(_timed(site.replica.step) for _ in range(21)) * 1000
    found["one_change_ms"] = statistics.median(site.one_change() for _ in range(21)) * 1000
    site.replica = site.on_a_host()
    found["first_step_after_restart_ms"] = _timed(site.replica.step) * 1000
    store = opening.rows(site.database)[1]
    picks = range(0, site.users, max(1, site.users // 400))
    times = [_timed(partial(store.lookup, address(n))) for n in picks]
    found["lookup_in_database_ms"] = statistics.median(times) * 1000
    return found


def run(folder: Path, say: Say, *, many: int = MANY) -> Found:
    """Figures by name: with few users, with many, and the ratio."""
    sites: list[SqlSite] = []
    try:
        for name, size in (("few", FEW), ("many", many)):
            sites.append(SqlSite(folder / name, size, say))
        few, lots = (of_database(site) for site in sites)
        found = {
            name: {"few": few[name], "many": lots[name], "ratio": lots[name] / (few[name] or 1)}
            for name in few
        }
        for name, pair in found.items():
            say(f"{name}: {pair['few']:.3f} with few users, {pair['many']:.3f} with many")
        return found | measure(sites, say)
    finally:
        for site in sites:
            site.end()


def main() -> None:
    """Print the figures, and write them to build/capacity-sql.json."""
    with tempfile.TemporaryDirectory(prefix="mailseal-capacity-") as name:
        many = int(sys.argv[1]) if len(sys.argv) > 1 else MANY
        say: Say = partial(print, flush=True)
        say(f"{many} public keys, {min(many, KEYRINGS)} keyrings")
        found = run(Path(name), say, many=many)
    Path("build").mkdir(exist_ok=True)
    Path("build/capacity-sql.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
