# SPDX-License-Identifier: MIT
"""mailseal seal, unseal, reseal: mail that is stored already.

`seal` needs the public key alone: nobody has to be logged in.  `unseal` and `reseal` need
private keys: with the user's password or a recovery code the key agent gives them; with
--escrow-key they are taken from the keyring; --key and --from-key read them from a file.
They stay in the memory of this process.
All three are made for mailboxes in use, which is not proven yet (docs/sealing.md).  They work as
the owner of the mail, and end
what was interrupted when they are run again.

EXIT STATUS
    0   all mail is as it should be
    65  something was left: the summary says what and why
    75  it ended early (disk full, another run, a service not there): run it again
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from mailseal import option_types
from mailseal.admin import key_sources
from mailseal.admin.conversion import Conversion, Entry, describe
from mailseal.admin.mail_place import Places
from mailseal.errors import (
    EX_DATAERR,
    EX_TEMPFAIL,
    AgentUnavailable,
    ConfigError,
    MailsealError,
    NotEnrolled,
    NotPermitted,
    UsageError,
)
from mailseal.keys.names import normalise
from mailseal.keys.public import PublicStore

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from mailseal.admin.command import Commands, Context
    from mailseal.crypto.eckeys import PublicKey
    from mailseal.mailbox.forms import Form

FormOf = Callable[[str], "Form"]


def register(commands: Commands) -> None:
    """Add this module's commands."""
    parser = commands.add("seal", seal, "seal the mail that users have already")
    add_users(parser)
    _add_options(parser)
    parser.add_argument(
        "--shred",
        action="store_true",
        help="overwrite the clear mails before they go; docs/sealing.md says what that is worth",
    )
    parser = commands.add("unseal", unseal, "store sealed mail in clear again")
    parser.add_argument("users", metavar="USER", nargs="+")
    key_sources.add_options(parser)
    parser.add_argument("--key", metavar="FILE", help="file with the user's private keys")
    _add_options(parser)
    parser = commands.add("reseal", reseal, "seal mail of older key pairs to the current one")
    parser.add_argument("users", metavar="USER", nargs="+")
    key_sources.add_options(parser)
    parser.add_argument(
        "--from-key",
        dest="key",
        metavar="FILE",
        help="the mail is sealed to this private key, as mail_crypt's global one",
    )
    _add_options(parser)


def add_users(parser: ArgumentParser) -> None:
    """Whom a command is for."""
    parser.add_argument("users", metavar="USER", nargs="*")
    parser.add_argument("--all", action="store_true", help="all users who are enrolled")
    parser.add_argument("--domain", metavar="D", help="all enrolled users of this domain")
    parser.add_argument(
        "--stdin", action="store_true", help="users from standard input, one a line"
    )


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what there is to do")
    parser.add_argument("--json", action="store_true", help="the summary for machines")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--limit-rate", metavar="SIZE", help="bytes of mail a second, as 10M")
    parser.add_argument(
        "--maildir",
        action="append",
        default=[],
        help="this folder of the user's too, as of another namespace (may be repeated)",
    )


def users_of(context: Context) -> list[str]:
    """The users that the arguments name."""
    arguments = context.arguments
    given = [bool(arguments.users), arguments.all, bool(arguments.domain), arguments.stdin]
    if sum(given) != 1:
        raise UsageError("name users, or give one of --all, --domain and --stdin")
    if arguments.users:
        return [normalise(os.fsencode(user)) for user in arguments.users]
    if arguments.stdin:
        return [normalise(line.strip()) for line in sys.stdin.buffer if line.strip()]
    enrolled = PublicStore(context.config.public_dir).users()
    end = f"@{arguments.domain.lower()}" if arguments.domain else ""
    return [user for user in enrolled if user.endswith(end)]


def seal(context: Context) -> int:
    """See the module's docstring."""
    from mailseal.mailbox.forms import Seal

    users = users_of(context)
    status = _convert(context, "sealing", users, lambda user: Seal(_public(context, user)))
    sys.stderr.write(
        "mailseal: hint: an IMAP session from before the enrollment has no key, and cannot read "
        "what is sealed now: `doveadm kick USER`\n"
    )
    return status


def unseal(context: Context) -> int:
    """See the module's docstring."""
    from mailseal.mailbox.forms import Unseal

    keys = key_sources.Source(context)
    return _convert(context, "unsealing", _named(context), lambda user: Unseal(keys.of(user)))


def reseal(context: Context) -> int:
    """See the module's docstring."""
    from mailseal.mailbox.forms import Reseal

    keys = key_sources.Source(context)
    form_of = lambda user: Reseal(_public(context, user), keys.of(user))  # noqa: E731
    return _convert(context, "resealing", _named(context), form_of)


def _named(context: Context) -> list[str]:
    return [normalise(os.fsencode(user)) for user in context.arguments.users]


def _public(context: Context, user: str) -> PublicKey:
    key = PublicStore(context.config.public_dir).lookup(user)
    if key is None:
        raise NotEnrolled(f"{user} is not enrolled", hint=f"run `mailseal enroll {user}`")
    return key


def _convert(context: Context, doing: str, users: list[str], form_of: FormOf) -> int:
    arguments = context.arguments
    work = Conversion(
        doing,
        jobs=_jobs(arguments.jobs),
        rate=_rate(arguments.limit_rate),
        shred=getattr(arguments, "shred", False),
        dry=arguments.dry_run,
        quiet=arguments.json,
    )
    if arguments.maildir and len(users) != 1:
        raise UsageError("--maildir goes with one USER")
    places = Places(context.config)
    entries: list[Entry] = []
    for user in users:
        try:
            entry = work.of(user, places.of(user), form_of(user), arguments.maildir)
        except (ConfigError, NotPermitted, AgentUnavailable):
            raise
        except MailsealError as exc:
            if len(users) == 1:
                raise
            entry = {"user": user, "error": str(exc)}
        entries.append(entry)
        if not arguments.json:
            sys.stdout.write(describe(entry, doing, dry=arguments.dry_run))
            sys.stdout.flush()
    if arguments.json:
        json.dump({"doing": doing, "users": entries}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    elif len(entries) != 1:
        done = sum(entry.get("converted", 0) for entry in entries)
        sys.stdout.write(f"{len(entries)} users, {done} mails\n")
    if any(entry.get("error") or entry.get("stopped") for entry in entries):
        return EX_TEMPFAIL
    left = any(entry.get("left") or entry.get("skipped") for entry in entries)
    return EX_DATAERR if left else 0


def _jobs(given: int | None) -> int:
    if given is None:
        return len(os.sched_getaffinity(0))
    if not 1 <= given <= 256:
        raise UsageError("--jobs takes a number from 1 to 256")
    return given


def _rate(given: str | None) -> int:
    if given is None:
        return 0
    try:
        return option_types.size.check(given)
    except ValueError:
        raise UsageError(f"--limit-rate takes {option_types.size.takes}") from None
