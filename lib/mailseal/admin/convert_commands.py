# SPDX-License-Identifier: MIT
"""mailseal seal, unseal, reseal: convert existing mail.

`seal` needs public keys only.  `unseal` and `reseal` need private keys: the key agent returns
them for the user's password or a recovery code; with --escrow-key they are taken from the
keyring; --key and --from-key read them from a file.  They stay in the memory of this process.
All three work while Dovecot and clients use the mailbox.  They work as the owner of the mail.  A
run after an interruption completes the work.

EXIT STATUS
    0   all mail has the wanted form
    65  some mail was not converted; the summary lists it, or the user, with the reason.  To run it
        again does not help
    67  the user is not enrolled, or Dovecot's user database does not know the user
    75  the command ended early (disk full, another run, a service is down): run it again
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
from mailseal.admin.own_pairs import ids_of
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
    parser = commands.add(
        "seal",
        seal,
        "seal existing mail",
        group="mail",
        example="mailseal seal --domain example.com --dry-run",
    )
    add_users(parser)
    _add_options(parser)
    parser.add_argument(
        "--shred",
        action="store_true",
        help="overwrite the mails in clear before they are removed; see docs/sealing.md",
    )
    parser = commands.add(
        "unseal",
        unseal,
        "store sealed mail in clear again",
        group="mail",
        example="mailseal unseal alice@example.com",
    )
    parser.add_argument("users", metavar="USER", nargs="+")
    key_sources.add_options(parser)
    parser.add_argument("--key", metavar="FILE", help="file with the user's private keys")
    _add_options(parser)
    parser = commands.add(
        "reseal",
        reseal,
        "seal mail to the current key pair instead of older ones",
        group="mail",
        example="mailseal reseal --all --from-key /root/ecprivkey.pem",
    )
    _add_selection(parser)
    key_sources.add_options(parser)
    parser.add_argument(
        "--from-key",
        dest="key",
        metavar="FILE",
        help="private key that opens the mail, for example the global key of mail_crypt",
    )
    _add_options(parser)


def add_users(parser: ArgumentParser) -> None:
    """Add the arguments that select users."""
    _add_selection(parser)
    parser.add_argument(
        "--stdin", action="store_true", help="users from standard input, one in each line"
    )


def _add_selection(parser: ArgumentParser) -> None:
    parser.add_argument("users", metavar="USER", nargs="*")
    parser.add_argument("--all", action="store_true", help="all enrolled users")
    parser.add_argument("--domain", metavar="D", help="all enrolled users of this domain")


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="only count the mails that would be converted"
    )
    parser.add_argument("--json", action="store_true", help="print the summary for programs")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="number of processes (default: one for each core)"
    )
    parser.add_argument(
        "--limit-rate", metavar="SIZE", help="bytes of mail per second, for example 10M"
    )
    parser.add_argument(
        "--maildir",
        action="append",
        default=[],
        help="another Maildir of the user, for example of another namespace (may be repeated)",
    )


def users_of(context: Context, *, passwords: bool = False) -> list[str]:
    """The users that the arguments select.

    `passwords`: with --all and --domain, --stdin is for the password of a key.
    """
    arguments = context.arguments
    many = arguments.all or bool(arguments.domain)
    lines = arguments.stdin and not (many and passwords)
    given = [bool(arguments.users), arguments.all, bool(arguments.domain), lines]
    if sum(given) != 1:
        raise UsageError("give either user names, or one of --all, --domain and --stdin")
    if arguments.users:
        return [normalise(os.fsencode(user)) for user in arguments.users]
    if lines:
        return [normalise(line.strip()) for line in sys.stdin.buffer if line.strip()]
    enrolled = PublicStore(context.config.public_dir).users()
    end = f"@{arguments.domain.lower()}" if arguments.domain else ""
    return [user for user in enrolled if user.endswith(end)]


def seal(context: Context) -> int:
    """See the module's docstring."""
    from mailseal.mailbox.forms import Seal

    users = users_of(context)

    def form_of(user: str) -> Form:
        return Seal(_public(context, user), ids_of(context.config, user) or ())

    return _convert(context, "sealing", users, form_of)


def unseal(context: Context) -> int:
    """See the module's docstring."""
    from mailseal.mailbox.forms import Unseal

    keys = key_sources.Source(context)
    return _convert(context, "unsealing", _named(context), lambda user: Unseal(keys.of(user)))


def reseal(context: Context) -> int:
    """See the module's docstring."""
    from mailseal.mailbox.forms import Reseal

    arguments = context.arguments
    if not (arguments.users or arguments.escrow_key or arguments.key):
        raise UsageError(
            "many users need one key that opens their mail: --escrow-key or --from-key",
            hint="or name each USER: then the password or a recovery code is asked for",
        )
    keys = key_sources.Source(context)
    users = _named(context) if arguments.users else users_of(context, passwords=True)
    form_of = lambda user: Reseal(_public(context, user), keys.of(user))  # noqa: E731
    return _convert(context, "resealing", users, form_of)


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
        raise UsageError("--maildir needs exactly one USER")
    places = Places(context.config)
    entries: list[Entry] = []
    early = False
    for user in users:
        try:
            if doing == "sealing":  # mail in sdbox is moved before enrollment
                place, form = places.of(user), form_of(user)
            else:  # the user's line of standard input is read in any case
                form, place = form_of(user), places.of(user)
            entry = work.of(user, place, form, arguments.maildir)
        except (ConfigError, NotPermitted, AgentUnavailable):
            raise
        except MailsealError as exc:
            if len(users) == 1:
                raise
            early |= exc.exit_status == EX_TEMPFAIL
            entry = {"user": user, "error": str(exc)}
        except KeyboardInterrupt:
            sys.stderr.write("mailseal: interrupted: run the command again, and it continues\n")
            raise
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
    if doing == "sealing" and not arguments.dry_run and any(map(_sealed, entries)):
        sys.stderr.write(
            "mailseal: hint: IMAP sessions that began before the enrollment have no key and cannot "
            "read sealed mail; end them with `doveadm kick USER`\n"
        )
    if early or any(entry.get("stopped") for entry in entries):
        return EX_TEMPFAIL
    left = any(entry.get("error") or entry.get("left") or entry.get("skipped") for entry in entries)
    return EX_DATAERR if left else 0


def _sealed(entry: Entry) -> int:
    converted: int = entry.get("converted", 0)
    return converted


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
