# SPDX-License-Identifier: MIT
"""The table of options: name, default, what it takes, what it means.

Everything about the configuration is made from this table: the loader,
`mailseal check-config`, `mailseal print-config` and the documentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from mailseal.option_types import (
    absolute_path,
    choice,
    duration,
    header_rule,
    list_of,
    number,
    octal_mode,
    optional,
    size,
    socket_name,
    text,
    user_or_uid,
)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: where it stands, what it takes, what it does."""

    name: str
    default: Any
    check: Callable[[Any], Any]
    takes: str
    help: str


OPTIONS: tuple[Option, ...] = (
    Option(
        "state_dir",
        "/var/lib/mailseal",
        absolute_path,
        "absolute path",
        "Keyrings (keys/, for the agent only) and public keys (public/, for the delivery filter).",
    ),
    Option(
        "log.to",
        "syslog",
        lambda v: v if v in ("syslog", "stderr") else absolute_path(v),
        "syslog, stderr or an absolute path",
        "Where log lines go.  syslog uses the mail facility.",
    ),
    Option(
        "dovecot.version",
        "auto",
        choice("auto", "2.3", "2.4"),
        "auto, 2.3 or 2.4",
        "Which Dovecot the agent answers to.  auto asks `dovecot --version` at start.",
    ),
    Option(
        "dovecot.userdb_socket",
        "/run/dovecot/auth-userdb",
        absolute_path,
        "absolute path",
        "Dovecot's auth-userdb socket; it knows home, mail location, uid and gid of each user.",
    ),
    Option(
        "dovecot.lmtp_socket",
        "/run/dovecot/lmtp",
        socket_name,
        "absolute path or host:port",
        "Dovecot's own LMTP, for recipients whose mail mailseal does not store itself.",
    ),
    Option(
        "dovecot.quota_socket",
        None,
        optional(socket_name),
        "absolute path or host:port, or null",
        "Dovecot's quota-status service.  null: mailseal asks nobody about quota.",
    ),
    Option(
        "dovecot.timeout",
        "30s",
        duration,
        "duration",
        "How long to wait for an answer of Dovecot's before the mail is deferred.",
    ),
    Option(
        "agent.user",
        "mailseal",
        user_or_uid,
        "user name or uid",
        "The user the agent runs as.  Nobody else can read the keyrings.",
    ),
    Option(
        "agent.socket",
        "/run/mailseal/agent.sock",
        absolute_path,
        "absolute path",
        "Where the agent listens.",
    ),
    Option(
        "agent.socket_mode",
        "0660",
        octal_mode,
        "octal mode in quotes",
        "Mode of the socket; its group is that of the first of login_users that is not root.",
    ),
    Option(
        "agent.login_users",
        ("root", "dovecot"),
        list_of(user_or_uid),
        "list of user names or uids",
        "Who may unlock keyrings with a password: the user that runs Dovecot's auth.",
    ),
    Option(
        "agent.admin_users",
        ("root",),
        list_of(user_or_uid),
        "list of user names or uids",
        "Who may enrol, change passwords and end sessions.",
    ),
    Option(
        "agent.parallel",
        2,
        number(1, 256),
        "number 1..256",
        "Argon2id runs at a time.  Memory is this times the profile's: 2 x 64 MiB.",
    ),
    Option(
        "agent.queue",
        64,
        number(1, 10000),
        "number 1..10000",
        "Unlocks that may wait for a free run; one more is a temporary failure.",
    ),
    Option(
        "agent.idle_timeout",
        "30m",
        duration,
        "duration",
        "A session that no login has used for so long is forgotten.",
    ),
    Option(
        "agent.absolute_timeout",
        "12h",
        duration,
        "duration",
        "A session is forgotten so long after its first login, used or not.",
    ),
    Option(
        "keys.curve",
        "prime256v1",
        choice("prime256v1", "secp384r1", "secp521r1"),
        "prime256v1, secp384r1 or secp521r1",
        "Curve of new key pairs.",
    ),
    Option(
        "keys.kdf",
        "standard",
        choice("standard", "low-memory", "high-memory", "insecure-testing"),
        "standard, low-memory, high-memory or insecure-testing",
        "Argon2id profile of new slots.  standard: 64 MiB, 3 passes, 4 lanes.",
    ),
    Option(
        "keys.escrow",
        None,
        optional(absolute_path),
        "absolute path",
        "File with the organisation's public key (PEM): every keyring gets a slot that the "
        "private key, kept elsewhere, opens.",
    ),
    Option(
        "login.enroll",
        "manual",
        choice("manual", "at-login"),
        "manual or at-login",
        "at-login makes a key pair at the first login behind another passdb.",
    ),
    Option(
        "login.enroll_for",
        (),
        list_of(text),
        "list of user names or @domains",
        "With `enroll: at-login`: for whom.  Empty: for everybody.",
    ),
    Option(
        "login.keyless_services",
        ("smtp", "submission", "sieve"),
        list_of(text),
        "list of Dovecot's service names",
        "Logins that read no mail: the password is checked as for the others, no key is given.",
    ),
    Option(
        "login.stale_password",
        "refuse",
        choice("refuse", "limited"),
        "refuse or limited",
        "The other passdb accepts a password that the keyring does not: refuse the login as a "
        "temporary failure, or let it in without the key.",
    ),
    Option(
        "delivery.user",
        "vmail",
        user_or_uid,
        "user name or uid",
        "The user that owns the mail store; mailseal-lmtp runs as it.",
    ),
    Option(
        "delivery.listen",
        ("/run/mailseal/lmtp.sock",),
        list_of(socket_name),
        "list of paths or host:port",
        "Where mailseal-lmtp listens.",
    ),
    Option(
        "delivery.socket_mode",
        "0666",
        octal_mode,
        "octal mode in quotes",
        "Mode of the unix sockets in delivery.listen; the folder decides who gets that far.",
    ),
    Option(
        "delivery.hostname",
        None,
        optional(text),
        "host name",
        "Name in greetings and Received lines.  Default: this host's name.",
    ),
    Option(
        "delivery.userdb",
        "dovecot",
        choice("dovecot", "template"),
        "dovecot or template",
        "Where home and mail location come from: Dovecot's userdb, or delivery.home below.",
    ),
    Option(
        "delivery.home",
        "/var/mail/vhosts/%d/%n",
        absolute_path,
        "absolute path with %u, %n, %d",
        "With `userdb: template`: a user's home (%u user, %n local part, %d domain).",
    ),
    Option(
        "delivery.maildir",
        "~/Maildir",
        text,
        "path, ~ is the home",
        "With `userdb: template`, or where Dovecot's userdb gives no mail location: the Maildir.",
    ),
    Option(
        "delivery.userdb_cache",
        "10s",
        duration,
        "duration",
        "How long an answer of the user database is used again.  Unknown users are never kept.",
    ),
    Option(
        "delivery.recipient_delimiter",
        "+",
        optional(choice("+", "-", "_", "=", "/", "#")),
        "one of + - _ = / # or null",
        "Parts the user from the detail in a recipient's local part, as in Dovecot and Postfix.",
    ),
    Option(
        "delivery.detail_folder",
        "existing",
        choice("existing", "create", "ignore"),
        "existing, create or ignore",
        "What user+folder does: deliver there if the folder exists, make it, or nothing.",
    ),
    Option(
        "delivery.header_rules",
        (),
        list_of(header_rule),
        "list of HEADER: VALUE => FOLDER",
        'Folders without Sieve, as "X-Spam: Yes => Junk"; * in VALUE stands for anything.',
    ),
    Option(
        "delivery.over_quota",
        "defer",
        choice("defer", "reject"),
        "defer or reject",
        "Mail for a full mailbox: 452, and it stays in the queue, or 552.",
    ),
    Option(
        "delivery.sieve_script",
        "~/.dovecot.sieve",
        optional(text),
        "path, ~ is the home, or null",
        "A user with a file of this name has a Sieve script: Dovecot delivers, and seals.",
    ),
    Option(
        "delivery.sieve",
        "user-scripts",
        choice("user-scripts", "always"),
        "user-scripts or always",
        "Whose mail goes through Dovecot, and its Sieve: those who have a script, or all users, "
        "for scripts of the site (sieve_before and the like).",
    ),
    Option(
        "delivery.not_enrolled",
        "deliver",
        choice("deliver", "defer", "reject"),
        "deliver, defer or reject",
        "Mail for users without a key pair: hand to Dovecot in clear, keep queued, or refuse.",
    ),
    Option(
        "delivery.sizes",
        "S,W",
        choice("S,W", "S", "none"),
        "S,W or S or none",
        "Sizes in file names.  Without W Dovecot cannot size a logged-out user's mail (quota).",
    ),
    Option(
        "delivery.message_limit",
        "100M",
        size,
        "size",
        "Largest mail.",
    ),
    Option(
        "delivery.in_flight_limit",
        "256M",
        size,
        "size",
        "Mail held in memory at a time, all workers together; one more waits, then gets 452.",
    ),
    Option(
        "delivery.in_flight_wait",
        "60s",
        duration,
        "duration",
        "How long a mail waits for room in delivery.in_flight_limit before it is told 452.",
    ),
    Option(
        "delivery.recipient_limit",
        1000,
        number(1, 50000),
        "number 1..50000",
        "Recipients in one transaction.",
    ),
    Option(
        "delivery.connection_limit",
        100,
        number(1, 10000),
        "number 1..10000",
        "Connections at a time, a worker.",
    ),
    Option(
        "delivery.idle_timeout",
        "5m",
        duration,
        "duration",
        "A client that is silent for so long is told 421 and cut off.",
    ),
    Option(
        "delivery.deadline",
        "5m",
        duration,
        "duration",
        "mailseal-deliver gives up after so long, and the mail is deferred.",
    ),
    Option(
        "delivery.workers",
        2,
        number(1, 256),
        "number 1..256",
        "Worker processes.",
    ),
    Option(
        "delivery.commit_threads",
        4,
        number(1, 64),
        "number 1..64",
        "Threads of a worker that write and sync mails; mails that wait are shared among them.",
    ),
    Option(
        "delivery.secrets_ahead",
        500,
        number(1, 100000),
        "number 1..100000",
        "Message secrets each worker makes ahead when idle; each saves 0.7 ms when mail comes.",
    ),
)
