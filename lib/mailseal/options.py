# SPDX-License-Identifier: MIT
"""The table of options: type, default, what it takes, what it means.

Everything about the configuration is made from this table: the attributes of
`Config`, the loader, `mailseal check-config` and `mailseal print-config`.  An
option is one field of a section: `config.delivery.workers` is `delivery:
workers:` in the file.  Its annotation is the type that its kind yields; mypy
compares the two.

A help text says what the option does and, where that is not plain, when to
change it.  print-config adds what the option takes and its default.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any, TypeVar, cast

from mailseal.option_types import (
    Kind,
    absolute_path,
    choice,
    duration,
    header_rule,
    list_of,
    network,
    number,
    octal_mode,
    optional,
    size,
    socket_name,
    text,
    user_or_uid,
    word_or,
)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Option:
    """What is known about one option; `default` is as one would write it in the file."""

    name: str
    kind: Kind[Any]
    default: Any
    help: str

    def value_in(self, options: Options) -> Any:
        """The checked value."""
        return operator.attrgetter(self.name)(options)


def option(kind: Kind[T], default: object, help: str) -> T:  # noqa: A002
    """A field of a section."""
    about = Option("", kind, default, help)
    field: Any = dataclasses.field(default=kind.check(default), metadata={"option": about})
    return cast(T, field)


@dataclasses.dataclass(frozen=True)
class Log:
    """log: where log lines go."""

    to: str = option(
        word_or(absolute_path, "syslog", "stderr"),
        "syslog",
        "Where log lines go.  syslog uses the mail facility.  Both daemons write to the same file, "
        "and find the new one after a rotation; docs/install.md has a logrotate example.",
    )


@dataclasses.dataclass(frozen=True)
class Dovecot:
    """dovecot: how Dovecot is asked."""

    version: str = option(
        choice("auto", "2.3", "2.4"),
        "auto",
        "The Dovecot version that the agent answers to.  auto asks `dovecot --version` at start; "
        "set it where that command is not installed.",
    )
    userdb_socket: str = option(
        socket_name,
        "/run/dovecot/mailseal-userdb",
        "A userdb socket of Dovecot's.  It gives home, mail location, uid and gid of each user.  "
        "host:port if Dovecot runs on another host; see docs/install.md, Two hosts.",
    )
    auth_socket: str = option(
        absolute_path,
        "/run/dovecot/auth-client",
        "Dovecot's auth-client socket.  `mailseal enroll` asks there whether a password is right.",
    )
    lmtp_socket: str = option(
        socket_name,
        "/run/dovecot/mailseal-relay",
        "Dovecot's own LMTP server.  It gets the mail that mailseal does not store itself.",
    )
    quota_socket: str | None = option(
        optional(socket_name),
        None,
        "Dovecot's quota-status service, which is asked before a mail is stored.  null: no quota "
        "is checked.  Set it if your users have quotas.",
    )
    timeout: int = option(
        duration,
        "30s",
        "How long to wait for an answer from Dovecot.  After that the mail is deferred.",
    )


@dataclasses.dataclass(frozen=True)
class Agent:
    """agent: the daemon that holds the keys."""

    user: str = option(
        user_or_uid,
        "mailseal",
        "The user that the agent runs as.  Only this user and root can read the keyrings.",
    )
    socket: str = option(
        absolute_path,
        "/run/mailseal/agent.sock",
        "The socket on which the agent listens.",
    )
    socket_mode: int = option(
        octal_mode,
        "0660",
        "Mode of that socket.  Its group is the group of the first user in login_users that is "
        "not root.",
    )
    login_users: tuple[str, ...] = option(
        list_of(user_or_uid),
        ("root", "dovecot"),
        "The users that may open keyrings with a password: those that run Dovecot's auth "
        "processes.",
    )
    panel_users: tuple[str, ...] = option(
        list_of(user_or_uid),
        (),
        "The users that run panels, as www-data.  They may ask only for what a password or a "
        "recovery code of the user in question proves: a new password, codes, app passwords.",
    )
    admin_users: tuple[str, ...] = option(
        list_of(user_or_uid),
        ("root",),
        "The users that may ask the agent for everything, a password or not.",
    )
    parallel: int = option(
        number(1, 256),
        2,
        "Number of passwords that are checked with Argon2id at the same time.  Each check takes "
        "the memory of the profile in keys.kdf.  Raise it if you have many logins and many cores.  "
        "Beside these there is one check at a time for administrators, and one for panels.",
    )
    queue: int = option(
        number(1, 10000),
        64,
        "Number of logins that may wait for such a check.  Further ones get a temporary failure.",
    )
    idle_timeout: int = option(
        duration,
        "30m",
        "The agent forgets a user's key when no login has used it for this long.",
    )
    absolute_timeout: int = option(
        duration,
        "12h",
        "The agent forgets a user's key this long after the login that opened it, even if it is "
        "still in use.",
    )


@dataclasses.dataclass(frozen=True)
class Keys:
    """keys: what new keys and slots are like."""

    curve: str = option(
        choice("prime256v1", "secp384r1", "secp521r1"),
        "prime256v1",
        "Curve of new key pairs.  Keys that exist keep theirs.",
    )
    kdf: str = option(
        choice("standard", "low-memory", "high-memory", "insecure-testing"),
        "standard",
        "Argon2id profile of new slots.  standard: 64 MiB, 3 passes, 4 lanes.  Use low-memory "
        "on a small machine.",
    )
    escrow: str | None = option(
        optional(absolute_path),
        None,
        "File with the organisation's public key (PEM).  Every keyring then gets a slot that the "
        "organisation's private key opens.  Keep the private key on another machine.",
    )


@dataclasses.dataclass(frozen=True)
class Login:
    """login: what happens at a login."""

    password_check: str = option(
        choice("passdb", "keyring"),
        "passdb",
        "Who checks the password at a login.  passdb: a passdb of Dovecot's, and mailseal comes "
        "behind it.  keyring: the keyring alone, with the snippet auth-mailseal-only.",
    )
    enroll: str = option(
        choice("manual", "at-login"),
        "manual",
        "at-login makes a key pair at a user's first login, with the password that another passdb "
        "has accepted.",
    )
    enroll_for: tuple[str, ...] = option(
        list_of(text("a user name or @domain")),
        (),
        "Whom `enroll: at-login` is for.  Empty: everybody.",
    )
    keyless_services: tuple[str, ...] = option(
        list_of(text("a service name of Dovecot's")),
        ("smtp", "submission", "sieve"),
        "Services that read no mail.  Their logins are checked like all others but get no key.",
    )
    stale_password: str = option(
        choice(
            "refuse",
            dropped={"limited": "remove the line: without the key clients show empty mails"},
        ),
        "refuse",
        "What happens when the other passdb accepts a password that the keyring does not know.  "
        "refuse: the login fails as a temporary failure.",
    )

    wrong_per_user: int = option(
        number(1, 100000),
        10,
        "Number of different wrong passwords for one user before further tries must pause.  Logins "
        "from an address that the user has logged in from before are counted apart.",
    )
    wrong_per_address: int = option(
        number(1, 100000),
        30,
        "Number of different wrong passwords from one address (IPv6: one /64), for all users "
        "together, before further tries from there must pause.",
    )
    wrong_pause: int = option(
        duration,
        "1m",
        "The longest pause.  It begins with one second and doubles with each wrong password.  A "
        "try that comes too early is a temporary failure, right or wrong.",
    )
    shared_addresses: tuple[str, ...] = option(
        list_of(network),
        (),
        "Addresses from which many users log in, as a webmail server's: not counted by "
        "wrong_per_address.  This host itself never is.",
    )


@dataclasses.dataclass(frozen=True)
class Delivery:
    """delivery: how mail comes in."""

    user: str = option(
        user_or_uid,
        "vmail",
        "The user that owns the mail store.  mailseal-lmtp runs as this user.",
    )
    listen: tuple[str, ...] = option(
        list_of(socket_name),
        ("/run/mailseal/lmtp.sock",),
        "Where mailseal-lmtp listens for Postfix.",
    )
    socket_mode: int = option(
        octal_mode,
        "0660",
        "Mode of the unix sockets in delivery.listen.  Whoever may write to them may deliver mail "
        "to anybody, without Postfix.",
    )
    socket_group: str = option(
        user_or_uid,
        "postfix",
        "Group of the unix sockets in delivery.listen: that of Postfix's mail_owner, or of the "
        "user= of your pipe(8) service.  A group name or a gid.",
    )
    postfix_user: str = option(
        user_or_uid,
        "postfix",
        "The user that Postfix runs as (mail_owner).  Its queue ids are written to the log.",
    )
    deliver_socket: str | None = option(
        optional(absolute_path),
        "/run/mailseal/deliver.sock",
        "Where mailseal-lmtp listens for mailseal-deliver, with a worker process of its own.  "
        "null: mailseal-deliver uses delivery.listen, which local users may not.",
    )
    deliver_socket_mode: int = option(
        octal_mode,
        "0666",
        "Mode of delivery.deliver_socket.  Its group is that of delivery.user.  0666 lets every "
        "local user hand over mail, as a .forward file needs it.",
    )
    hostname: str | None = option(
        optional(text("a host name")),
        None,
        "Host name in greetings and Received lines.  null: the name of this host.",
    )
    userdb: str = option(
        choice("dovecot", "template"),
        "dovecot",
        "Where a user's home and mail location come from.  dovecot asks Dovecot's userdb.  "
        "template uses delivery.home, for a host that runs no Dovecot.",
    )
    home: str = option(
        absolute_path,
        "/var/mail/vhosts/%d/%n",
        "With `userdb: template`: a user's home directory.  %u is the user name, %n the part "
        "before the @, %d the domain.",
    )
    maildir: str = option(
        text("a path, in which ~ is the home directory"),
        "~/Maildir",
        "The Maildir, with `userdb: template` or where neither Dovecot's userdb nor its settings "
        "give a mail location.",
    )
    userdb_cache: int = option(
        duration,
        "10s",
        "How long an answer of the userdb is used again.  Answers about users that do not exist "
        "are not kept.",
    )
    recipient_delimiter: str | None = option(
        optional(choice("+", "-", "_", "=", "/", "#")),
        "+",
        "Separates the user from the detail in a recipient's address, as in user+detail.  Use the "
        "same value as in Postfix and Dovecot.",
    )
    detail_folder: str = option(
        choice("existing", "create", "ignore"),
        "existing",
        "What is done with mail for user+detail.  existing: it goes to the folder of that name if "
        "there is one.  create: the folder is made.  ignore: it goes to INBOX.",
    )
    header_rules: tuple[str, ...] = option(
        list_of(header_rule),
        (),
        'Sorts mail into folders without Sieve, as "X-Spam: Yes => Junk".  * in VALUE stands for '
        "any text.",
    )
    over_quota: str = option(
        choice("defer", "reject"),
        "defer",
        "Mail for a full mailbox.  defer: 452, the mail stays in the queue.  reject: 552.",
    )
    sieve_script: str | None = option(
        optional(text("a path, in which ~ is the home directory")),
        "~/.dovecot.sieve",
        "A user who has this file has a Sieve script: the mail goes through Dovecot, which seals "
        "it.  null: nobody has one.",
    )
    sieve: str = option(
        choice("user-scripts", "always"),
        "user-scripts",
        "Whose mail goes through Dovecot and its Sieve: that of users who have a script, or that "
        "of all users.  Use always if your site has scripts for everybody (sieve_before and the "
        "like).",
    )
    not_enrolled: str = option(
        choice("deliver", "defer", "reject"),
        "deliver",
        "Mail for users without a key pair: deliver it in clear through Dovecot, defer it, or "
        "reject it.",
    )
    sizes: str = option(
        choice("S,W", "S", "none"),
        "S,W",
        "Sizes of the clear mail in file names.  S and none tell less about a mail, but Dovecot "
        "then cannot count the quota of a user who is logged out.",
    )
    message_limit: int = option(
        size,
        "100M",
        "Largest mail.  Use the same value as Postfix's message_size_limit, or more.",
    )
    in_flight_limit: int = option(
        size,
        "256M",
        "Memory for mail that is being received, all workers together.  The worker of "
        "delivery.deliver_socket has as much as each of the others on top.  When it is used up, "
        "further large mail waits.",
    )
    in_flight_wait: int = option(
        duration,
        "60s",
        "How long a mail waits for memory before it gets 452.",
    )
    recipient_limit: int = option(
        number(1, 50000),
        1000,
        "Largest number of recipients of one mail in one transaction.",
    )
    connection_limit: int = option(
        number(1, 10000),
        100,
        "Largest number of connections that one worker serves at the same time.",
    )
    idle_timeout: int = option(
        duration,
        "5m",
        "A client that sends nothing for this long gets 421 and is disconnected.",
    )
    deadline: int = option(
        duration,
        "5m",
        "mailseal-deliver gives up after this time, and the mail is deferred.  Keep it below the "
        "time limit of pipe(8).",
    )
    workers: int = option(
        number(1, 256),
        2,
        "Number of worker processes.  Use the number of CPU cores.",
    )
    commit_threads: int = option(
        number(1, 64),
        4,
        "Number of threads in each worker that write mail to disk.",
    )
    secrets_ahead: int = option(
        number(1, 100000),
        500,
        "Number of ephemeral keys that each worker makes in advance while it is idle.  Each one "
        "saves 0.7 ms when a mail arrives.",
    )


@dataclasses.dataclass(frozen=True)
class Options:
    """All sections, and the options that stand in none."""

    state_dir: str = option(
        absolute_path,
        "/var/lib/mailseal",
        "Folder of the keyrings (keys/, for the agent only) and of the public keys (public/, for "
        "the delivery filter).",
    )
    log: Log = Log()
    dovecot: Dovecot = Dovecot()
    agent: Agent = Agent()
    keys: Keys = Keys()
    login: Login = Login()
    delivery: Delivery = Delivery()


def _table(section: Any, prefix: str) -> list[Option]:
    found = []
    for field in dataclasses.fields(section):
        if "option" in field.metadata:
            about: Option = field.metadata["option"]
            found.append(dataclasses.replace(about, name=f"{prefix}{field.name}"))
        else:
            found += _table(field.default, f"{prefix}{field.name}.")
    return found


OPTIONS: tuple[Option, ...] = tuple(_table(Options, ""))
