# SPDX-License-Identifier: MIT
"""mailseal move-store: move the keys from files into a database, or back.

It runs as root while the agent runs.  After the keys are copied, changes (enrollments, new
passwords) fail temporarily until mailseal's services are restarted with the new store.  Logins and
deliveries are not interrupted.

FAILURES
    See keys/moving.py.  After a failure the old store stays in use.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailseal.errors import NotPermitted, UsageError

if TYPE_CHECKING:
    from mailseal.admin.command import Commands, Context
    from mailseal.keys.moving import Gate
    from mailseal.keys.stores import KeyringStore, PublicKeys


def register(commands: Commands) -> None:
    """Add this module's command."""
    parser = commands.add(
        "move-store",
        move,
        "move the keys from files into a database, or back",
        group="operation",
        example="mailseal move-store --to postgresql:///mailseal",
    )
    parser.add_argument(
        "--to", required=True, metavar="STORE", help="files, or the URL of a database"
    )
    parser.add_argument(
        "--password-file", metavar="FILE", help="file with the password of the database user"
    )
    parser.add_argument(
        "--undo",
        action="store_true",
        help="allow changes in the store of keys.store again; moves nothing",
    )


def move(context: Context) -> int:
    """Copy the keys, close the old store, and compare.  The administrator then sets keys.store."""
    from mailseal.daemon import user_ids
    from mailseal.keys.moving import Move
    from mailseal.keys.public import PublicStore
    from mailseal.option_types import store

    config, arguments = context.config, context.arguments
    try:
        store.check(arguments.to)
    except ValueError:
        raise UsageError(f"--to takes {store.takes}") from None
    if arguments.to == config.keys.store and not arguments.undo:
        raise UsageError("keys.store is already this store")
    if os.geteuid() != 0:
        raise NotPermitted("move-store must be run as root")
    uid, gid = user_ids(config.agent.user, "agent.user")
    with _as(uid, gid):
        old, gate = _opened(context, config.keys.store, config.keys.store_password)
        if arguments.undo:
            gate.open()
            sys.stdout.write("open for changes again\n")
            return 0
        new, new_gate = _opened(context, arguments.to, arguments.password_file)
        replaces = new_gate.is_closed()
        new_gate.open()
        try:
            count = Move(old, new, gate, _tell, replaces=replaces).run(arguments.to)
        except BaseException:
            if replaces:
                new_gate.close(config.keys.store)
            raise
        if isinstance(new[1], PublicStore):
            new[1].become_store()
    sys.stdout.write(
        f"{count} users moved, each record compared\n"
        f"now set `keys: {{store: {arguments.to}}}` in {config.path}, and restart mailseal's "
        "services: see docs/several-hosts.md\n"
    )
    return 0


def _opened(
    context: Context, store: str, password: str | None
) -> tuple[tuple[KeyringStore, PublicKeys], Gate]:
    from mailseal.keys import opening

    if store == opening.FILES:
        keyrings, public = opening.files(context.config)
        keyrings.prepare()
        public.prepare()
        return (keyrings, public), keyrings
    from mailseal.keys.sql.gate import SqlGate

    database = opening.database(store, password)
    return opening.rows(database), SqlGate(database)


def _tell(text: str) -> None:
    sys.stderr.write(f"mailseal: {text}\n")


@contextlib.contextmanager
def _as(uid: int, gid: int) -> Iterator[None]:
    """Become the owner of the keyrings, whom the database knows too."""
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
