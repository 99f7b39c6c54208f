# SPDX-License-Identifier: MIT
"""The table of options: name, type, default and help text.

The attributes of `Config`, the loader, `mailseal check-config` and `mailseal
print-config` all use this table.  An option is a field of a section:
`config.delivery.workers` is `delivery: workers:` in the file.  The annotation
of the field is the type of the checked value; mypy compares it with the kind.

A help text says what the option does and, if this is not obvious, when to
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
    header,
    header_rule,
    list_of,
    network,
    number,
    octal_mode,
    optional,
    size,
    socket_name,
    store,
    text,
    user_or_uid,
    word_or,
)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.  `default` has the form in which it is written in the file."""

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
    """log: where log messages go."""

    to: str = option(
        word_or(absolute_path, "syslog", "stderr"),
        "syslog",
        "Where log messages go: to syslog (facility mail), to standard error, or to a file.  Both "
        "daemons can write to the same file, and they reopen it after a rotation.  Change it if "
        "you do not want log messages in syslog; docs/install.md has an example for logrotate.",
    )


@dataclasses.dataclass(frozen=True)
class Dovecot:
    """dovecot: version and sockets of Dovecot."""

    version: str = option(
        choice("auto", "2.3", "2.4"),
        "auto",
        "The Dovecot version whose fields the agent returns.  auto: the agent runs `dovecot "
        "--version` when it starts.  Change it if that command is not installed on this host.",
    )
    userdb_socket: str = option(
        socket_name,
        "/run/dovecot/mailseal-userdb",
        "Dovecot's userdb socket.  mailseal-lmtp looks up each recipient's home, mail location, "
        "uid and gid there.  Use host:port if Dovecot runs on another host; see docs/install.md, "
        "Two hosts.",
    )
    auth_socket: str = option(
        absolute_path,
        "/run/dovecot/auth-client",
        "Dovecot's auth-client socket.  `mailseal enroll` verifies passwords there.  Change it if "
        "Dovecot's base_dir is not /run/dovecot.",
    )
    indexer_socket: str = option(
        absolute_path,
        "/run/dovecot/indexer",
        "Socket of Dovecot's service indexer.  With agent.indexer_socket, the agent uses it at an "
        "IMAP login to have new mail indexed.  Change it if Dovecot's base_dir is not "
        "/run/dovecot.",
    )
    lmtp_socket: str = option(
        socket_name,
        "/run/dovecot/mailseal-relay",
        "Socket of Dovecot's LMTP server.  It gets all mail that mailseal does not store itself.  "
        "Use host:port if Dovecot runs on another host.",
    )
    anvil_socket: str = option(
        absolute_path,
        "/run/dovecot/mailseal-anvil",
        "Socket of Dovecot's service anvil.  The agent asks there which users have IMAP or POP3 "
        "connections, to lock the index folders of the others.  Change it if Dovecot's base_dir is "
        "not /run/dovecot.",
    )
    quota_socket: str | None = option(
        optional(socket_name),
        None,
        "Socket of Dovecot's quota-status service, which mailseal-lmtp asks before it stores a "
        "mail.  null: quotas are not checked.  Set it if your users have quotas.",
    )
    timeout: int = option(
        duration,
        "30s",
        "How long to wait for a reply from Dovecot.  After this time the mail is deferred.  Raise "
        "it if lookups in your user database take longer.",
    )


@dataclasses.dataclass(frozen=True)
class Agent:
    """agent: the key agent, mailseal-agent."""

    user: str = option(
        user_or_uid,
        "mailseal",
        "The user that the agent runs as.  Only this user and root can read the keyrings.  It "
        "must not be the owner of the mail store.",
    )
    socket: str = option(
        absolute_path,
        "/run/mailseal/agent.sock",
        "The unix socket on which the agent listens.  If you change it, change the path in "
        "Dovecot's configuration too.",
    )
    socket_mode: int = option(
        octal_mode,
        "0660",
        "Mode of that socket.  Its group is the primary group of the first user in "
        "agent.login_users that is not root.",
    )
    login_users: tuple[str, ...] = option(
        list_of(user_or_uid),
        ("root", "dovecot"),
        "The users that may open keyrings with a password.  These are the users that Dovecot's "
        "auth and auth-worker processes run as.  Change it if they run as other users.",
    )
    panel_users: tuple[str, ...] = option(
        list_of(user_or_uid),
        (),
        "The users that panels run as, for example www-data.  They may only ask for what requires "
        "the mail user's password or recovery code: password changes, recovery codes, app "
        "passwords.  Set it if users change their passwords in a panel; see docs/panels.md.",
    )
    admin_users: tuple[str, ...] = option(
        list_of(user_or_uid),
        ("root",),
        "The users that may use all verbs of the agent, also those that need no password.  "
        "Usually only root.",
    )
    indexer_socket: str | None = option(
        optional(absolute_path),
        None,
        "The unix socket on which the agent gives Dovecot's indexer the keys of users who have a "
        "session, for full-text search.  Only root is answered.  null: enrolled users have no "
        "full-text search.  Set it to /run/mailseal/indexer.sock with the file fts.conf of "
        "dovecot-conf; it needs index.folder.  See docs/search.md.",
    )
    parallel: int = option(
        number(1, 256),
        2,
        "Number of passwords that are checked with Argon2id at the same time.  Each check needs "
        "the memory of the profile in keys.kdf.  Raise it if you have many logins and many CPU "
        "cores.  One additional check for administrators and one for panels can run at the same "
        "time.",
    )
    queue: int = option(
        number(1, 10000),
        64,
        "Number of logins that may wait for such a check.  Further logins fail temporarily.  Raise "
        "it if the log says that the agent is busy.",
    )
    idle_timeout: int = option(
        duration,
        "30m",
        "A session ends if no login has used it for this time.  The next login opens the keyring "
        "again.  Lower it if keys should be in memory for a shorter time; then more logins need "
        "Argon2id.",
    )
    absolute_timeout: int = option(
        duration,
        "12h",
        "A session ends this long after the login that started it, even if it is still used.  "
        "Lower it for the same reason as agent.idle_timeout.",
    )


@dataclasses.dataclass(frozen=True)
class Index:
    """index: where Dovecot's indexes of enrolled users are."""

    folder: str | None = option(
        optional(absolute_path),
        None,
        "Directory in which each enrolled user gets an encrypted folder for Dovecot's index, for "
        "example /var/lib/mailseal/index.  It must be on ext4 or f2fs with the feature encrypt.  "
        "null: Dovecot's settings decide where indexes are.  See docs/index-privacy.md.",
    )
    lock_after: int = option(
        duration,
        "60s",
        "A user's index folder is locked, and the index cache in memory removed, this long after "
        "the last IMAP or POP3 connection has ended.  A login whose connection has not begun after "
        "this time finds the folder locked, so do not set it below the time that Dovecot may take "
        "to start a session.",
    )
    read_ahead: int | None = option(
        optional(size),
        "16M",
        "Largest size that is read from an index folder, in the background, when a login has "
        "unlocked it: first the index of INBOX.  So the first listing and the first full-text "
        "search of a session do not wait for the disk.  null: nothing is read ahead.",
    )
    cache: str | None = option(
        optional(absolute_path),
        "/run/mailseal/cache",
        "Directory of the index caches in memory (INDEXCACHE or mail_cache_path in Dovecot's "
        "settings), with a folder for each user.  The agent removes the caches of enrolled users "
        "without connections.  null: it does not.",
    )
    cache_per_user: int = option(
        size,
        "64M",
        "Largest size of the index caches of one user in memory.  Larger ones are removed, and "
        "Dovecot builds them again.",
    )
    cache_total: int = option(
        size,
        "1G",
        "Largest size of all index caches in memory.  Above this limit, the least recently used "
        "caches are removed.",
    )


@dataclasses.dataclass(frozen=True)
class Keys:
    """keys: where they are stored, and parameters of new key pairs and slots."""

    store: str = option(
        store,
        "files",
        "Where keyrings and public keys are stored.  files: in state_dir.  "
        "postgresql:///DATABASE or mysql:///DATABASE: in a database on this host, over its unix "
        "socket.  postgresql://USER@HOST,HOST/DATABASE: in a database on another host.  Change it "
        "if several hosts use the same keys; see docs/several-hosts.md.",
    )
    store_password: str | None = option(
        optional(absolute_path),
        None,
        "A file with the password of the database user, which only root and agent.user can read.  "
        "null: the database identifies the user by the socket or by a certificate.",
    )
    curve: str = option(
        choice("prime256v1", "secp384r1", "secp521r1"),
        "prime256v1",
        "Elliptic curve of new key pairs.  Existing key pairs keep their curve.  prime256v1 is "
        "the fastest.  Change it only if a policy requires a larger curve.",
    )
    kdf: str = option(
        choice("standard", "low-memory", "high-memory", "insecure-testing"),
        "standard",
        "Argon2id profile of new slots.  standard: 64 MiB, 3 passes, 4 lanes.  Use low-memory on "
        "a machine with little memory, and high-memory for more protection of weak passwords.  "
        "insecure-testing gives no protection.",
    )
    escrow: str | None = option(
        optional(absolute_path),
        None,
        "Path of the organisation's public key (PEM).  If it is set, each keyring gets a slot that "
        "the organisation's private key opens.  Keep the private key on another machine; see "
        "docs/keys.md.",
    )


@dataclasses.dataclass(frozen=True)
class Replica:
    """replica: mailseal-replica, which copies the public keys from the database to this host."""

    user: str = option(
        user_or_uid,
        "mailseal-replica",
        "The user that mailseal-replica runs as.  It owns the folder of public keys if keys.store "
        "is a database.",
    )
    store: str | None = option(
        optional(store),
        None,
        "The database, if mailseal-replica uses another address or user than keys.store.  null: "
        "keys.store.",
    )
    store_password: str | None = option(
        optional(absolute_path),
        None,
        "A file with the password of that database user, which only root and replica.user can "
        "read.  null: no password.",
    )
    name: str | None = option(
        optional(text("a name")),
        None,
        "Name of this host in `mailseal hosts`.  null: its host name.",
    )
    lease: int = option(
        number(5, 60),
        30,
        "Seconds for which a copy counts as current after it was compared with the database.  If "
        "the database is down for longer, mail for users who are not enrolled is deferred.  If a "
        "host is down, the first `mailseal enroll` waits a little longer than this.  Raise it if a "
        "failover of the database takes longer.",
    )


@dataclasses.dataclass(frozen=True)
class Login:
    """login: passwords, and what users get at a login."""

    password_check: str = option(
        choice("passdb", "keyring"),
        "passdb",
        "What checks the password at a login.  passdb: another passdb of Dovecot, before "
        "mailseal's.  keyring: only the keyring, with the configuration file auth-mailseal-only.",
    )
    enroll: str = option(
        choice("manual", "at-login"),
        "manual",
        "How users are enrolled.  manual: with `mailseal enroll`.  at-login: also at their first "
        "login, with the password that another passdb has accepted.  Use at-login to enroll many "
        "users without knowing their passwords.",
    )
    enroll_for: tuple[str, ...] = option(
        list_of(text("a user name or @domain")),
        (),
        "The users that `enroll: at-login` applies to, as names or as @domain.  An empty list "
        "means all users.",
    )
    keyless_services: tuple[str, ...] = option(
        list_of(text("a service name of Dovecot's")),
        ("smtp", "submission", "sieve"),
        "Dovecot services that read no mail.  Logins to these services need a valid password, but "
        "get no key.  Add services of your own that read no mail.",
    )
    stale_password: str = option(
        choice(
            "refuse",
            dropped={"limited": "remove the line: without the key clients show empty mails"},
        ),
        "refuse",
        "What happens if another passdb accepts a password that does not open the keyring, because "
        "it was changed without mailseal.  refuse: the login fails temporarily.",
    )

    wrong_per_user: int = option(
        number(1, 100000),
        10,
        "Number of different wrong passwords for one user before further attempts are delayed.  "
        "Logins from an address from which the user has logged in before are counted separately.  "
        "Raise it if users are delayed too early.",
    )
    wrong_per_address: int = option(
        number(1, 100000),
        30,
        "Number of different wrong passwords from one address (IPv6: one /64), for all users "
        "together, before further attempts from there are delayed.  Raise it if many users share "
        "one address; see also login.shared_addresses.",
    )
    wrong_pause: int = option(
        duration,
        "1m",
        "The longest delay.  The first delay is one second; it doubles with each wrong password.  "
        "An attempt during the delay fails temporarily, even if the password is right.",
    )
    shared_addresses: tuple[str, ...] = option(
        list_of(network),
        (),
        "Addresses from which many users log in, for example of a webmail server.  "
        "wrong_per_address does not apply to them, nor to this host itself.",
    )


@dataclasses.dataclass(frozen=True)
class Delivery:
    """delivery: how mailseal-lmtp and mailseal-deliver deliver mail."""

    user: str = option(
        user_or_uid,
        "vmail",
        "The user that owns the mail store.  mailseal-lmtp runs as this user.  Set it if the "
        "owner of your mail store is not vmail.",
    )
    listen: tuple[str, ...] = option(
        list_of(socket_name),
        ("/run/mailseal/lmtp.sock",),
        "The sockets on which mailseal-lmtp listens for Postfix: paths, or host:port.  Use "
        "host:port if Postfix runs on another host; LMTP has no password, so only Postfix's host "
        "may be able to connect.",
    )
    socket_mode: int = option(
        octal_mode,
        "0660",
        "Mode of the unix sockets in delivery.listen.  Every user that may write to them can "
        "deliver mail to all users, without Postfix.",
    )
    socket_group: str = option(
        user_or_uid,
        "postfix",
        "Group of the unix sockets in delivery.listen, as a name or a gid.  It must be the group "
        "of Postfix's mail_owner, or of the user= of your pipe(8) service.",
    )
    postfix_user: str = option(
        user_or_uid,
        "postfix",
        "The user that Postfix runs as (mail_owner).  mailseal-lmtp accepts queue ids from this "
        "user and writes them to the log.",
    )
    deliver_socket: str | None = option(
        optional(absolute_path),
        "/run/mailseal/deliver.sock",
        "The socket on which mailseal-lmtp listens for mailseal-deliver.  It has a worker process "
        "of its own.  null: mailseal-deliver uses delivery.listen, to which local users have no "
        "access.",
    )
    deliver_socket_mode: int = option(
        octal_mode,
        "0666",
        "Mode of delivery.deliver_socket.  Its group is the group of delivery.user.  With 0666 "
        "every local user can deliver mail, which .forward files need.",
    )
    hostname: str | None = option(
        optional(text("a host name")),
        None,
        "Host name in LMTP greetings and Received headers.  null: the name of this host.  Set it "
        "if that is not the name that your mail uses.",
    )
    userdb: str = option(
        choice("dovecot", "template"),
        "dovecot",
        "Where home and mail location of a user come from.  dovecot: from Dovecot's userdb.  "
        "template: from delivery.home, for a host on which Dovecot does not run.",
    )
    home: str = option(
        absolute_path,
        "/var/mail/vhosts/%d/%n",
        "With `userdb: template`: the home directory of a user.  %u is the user name, %n the part "
        "before the @, %d the domain.",
    )
    maildir: str = option(
        text("a path, in which ~ is the home directory"),
        "~/Maildir",
        "The Maildir, with `userdb: template`, or if neither Dovecot's userdb nor its settings "
        "give a mail location.",
    )
    userdb_cache: int = option(
        duration,
        "10s",
        "How long the result of a user lookup is used again.  Unknown users are not cached.  "
        "Lower it if changes in your user database must take effect sooner.",
    )
    recipient_delimiter: str | None = option(
        optional(choice("+", "-", "_", "=", "/", "#")),
        "+",
        "The character between user and detail in a recipient address, as in user+detail.  null: "
        "addresses have no detail.  Use the same value as in Postfix and Dovecot.",
    )
    detail_folder: str = option(
        choice("existing", "create", "ignore"),
        "existing",
        "What to do with mail for user+detail.  existing: store it in the folder of that name if "
        "it exists, otherwise in INBOX.  create: make the folder.  ignore: store it in INBOX.",
    )
    header_rules: tuple[str, ...] = option(
        list_of(header_rule),
        (),
        'Rules that sort mail into folders without Sieve, for example "X-Spam: Yes => Junk".  In '
        "the value of the header, * matches any text.  Use them if Sieve would only sort spam.",
    )
    over_quota: str = option(
        choice("defer", "reject"),
        "defer",
        "What to do with mail for a full mailbox.  defer: reply 452, and the mail stays in the "
        "queue.  reject: reply 552, and the sender gets a bounce.",
    )
    sieve_script: str | None = option(
        optional(text("a path, in which ~ is the home directory")),
        "~/.dovecot.sieve",
        "The user's Sieve script.  If this file exists, mail for the user is relayed to Dovecot, "
        "which runs the script and seals the mail.  null: users have no scripts.",
    )
    sieve: str = option(
        choice("user-scripts", "always"),
        "user-scripts",
        "Whose mail is relayed to Dovecot for Sieve.  user-scripts: mail for users who have a "
        "script.  always: mail for all users.  Use always if your site has scripts for all users "
        "(sieve_before and similar settings).",
    )
    not_enrolled: str = option(
        choice("deliver", "defer", "reject"),
        "deliver",
        "What to do with mail for users who are not enrolled.  deliver: relay it to Dovecot, in "
        "clear.  defer: keep it in the queue.  reject: refuse it.  Use defer or reject if no mail "
        "may be stored in clear.",
    )
    sizes: str = option(
        choice("S,W", "S", "none"),
        "S,W",
        "Sizes of the clear mail in file names.  S and none reveal less about a mail, but then "
        "Dovecot cannot count the quota of a user who is logged out.",
    )
    message_limit: int = option(
        size,
        "100M",
        "Largest size of a mail.  It must not be less than Postfix's message_size_limit.",
    )
    in_flight_limit: int = option(
        size,
        "256M",
        "Memory for mail that is being received, for all workers together.  The worker of "
        "delivery.deliver_socket has its own memory, as much as each other worker.  If no memory "
        "is free, large mails wait.  Raise it if mail is deferred with 452 4.3.1.",
    )
    in_flight_wait: int = option(
        duration,
        "60s",
        "How long a mail waits for memory.  After this time the reply is 452, and the mail stays "
        "in the queue.",
    )
    recipient_limit: int = option(
        number(1, 50000),
        1000,
        "Largest number of recipients in one transaction.  It should not be less than Postfix's "
        "limit for the transport.",
    )
    connection_limit: int = option(
        number(1, 10000),
        100,
        "Largest number of connections that one worker serves at the same time.  A local user who "
        "is not Postfix gets a quarter of those at delivery.deliver_socket.  Raise it if Postfix "
        "opens more connections.",
    )
    idle_timeout: int = option(
        duration,
        "5m",
        "A client that sends nothing for this time gets the reply 421 and is disconnected.",
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
        "Number of threads in each worker that write mail to disk.  Raise it for slow disks, "
        "lower it for fast ones.",
    )
    secrets_ahead: int = option(
        number(1, 100000),
        500,
        "Number of ephemeral keys that each worker makes in advance while it is idle.  Each of "
        "them saves 0.7 ms when a mail arrives.  Raise it if mail arrives in large bursts.",
    )


@dataclasses.dataclass(frozen=True)
class Seal:
    """seal: what mailseal-sealer does with existing mail."""

    existing: str = option(
        choice("manual", "at-enrollment"),
        "manual",
        "What happens to the mail that a user has when the keys are made.  manual: it is not "
        "changed until you run `mailseal seal`.  at-enrollment: mailseal-sealer seals it, for all "
        "enrolled users.",
    )
    processes: int = option(
        number(1, 64),
        1,
        "Number of processes with which mailseal-sealer seals the mail of one user.  Raise it if "
        "CPU cores are idle.",
    )
    parallel: int = option(
        number(1, 64),
        1,
        "Number of users on one file system whose mail mailseal-sealer seals at the same time.  "
        "Users on other file systems do not wait for them.  Raise it if the disk is fast and CPU "
        "cores are idle.",
    )
    limit_rate: int | None = option(
        optional(size),
        None,
        "Largest number of bytes of mail that mailseal-sealer seals per second.  null: no limit.  "
        "Set it if sealing slows down the disk for others.",
    )


@dataclasses.dataclass(frozen=True)
class Verify:
    """verify: checks of stored mail by mailseal-sealer."""

    at_login: int | None = option(
        optional(duration),
        None,
        "After a login, mailseal-sealer checks the tags of all mail of the user, if the last check "
        "is older than this time.  `mailseal status` shows the result.  null: no checks.  A "
        "check reads all mail of the user from the disk; 7d is a good value if that is acceptable.",
    )


@dataclasses.dataclass(frozen=True)
class Web:
    """web: mailseal-web, the page on which users manage encryption (docs/web.md)."""

    listen: str | None = option(
        optional(socket_name),
        None,
        "The socket on which mailseal-web listens for the web server in front of it: a path, or "
        "host:port on the loopback interface.  null: there is no such page.",
    )
    user: str = option(
        user_or_uid,
        "mailseal-web",
        "The user that mailseal-web runs as.  It must also be in agent.panel_users.",
    )
    socket_group: str = option(
        user_or_uid,
        "www-data",
        "Group of that unix socket, as a name or a gid: the group of the web server.",
    )
    socket_mode: int = option(octal_mode, "0660", "Mode of that unix socket.")
    path: str = option(
        text("a path such as /mailseal, or /"),
        "/mailseal",
        "Where the page is on its host.  Use the same path in the web server.",
    )
    name: str = option(
        text("the name of your service"), "Mail", "The name of your service, above each page."
    )
    contact: str | None = option(
        optional(text("a line of text")),
        None,
        "How users reach you, for example a mail address.  It is shown below each page.",
    )
    language: str = option(
        text("a language code, for example en or de"),
        "en",
        "Language of the page if none of the browser's languages is available.",
    )
    theme: str | None = option(
        optional(absolute_path),
        None,
        "A folder with your own files: theme.css, which is added to the page's style; logo.svg, "
        "which is shown above each page; LANGUAGE.po, translations.",
    )
    password_command: tuple[str, ...] = option(
        list_of(text("a word of the command")),
        (),
        "The command that sets a new password in the user database, as for `mailseal passwd USER "
        "--then`; the user is added as its last argument.  An empty list: the password can be "
        "changed here only if the keyring is the only password check.",
    )
    user_header: str | None = option(
        optional(header),
        None,
        "A header in which the web server passes the name of a user that it has authenticated, "
        "with a TLS client certificate or SSO.  If it is set, only that user can sign in.",
    )
    address_header: str = option(
        header,
        "X-Real-IP",
        "The header in which the web server passes the address of the client.  Wrong passwords "
        "are counted for this address.",
    )
    idle_timeout: int = option(
        duration, "15m", "A user who does nothing for this time has to sign in again."
    )
    absolute_timeout: int = option(
        duration, "2h", "A user has to sign in again this long after having signed in."
    )
    request_timeout: int = option(
        duration,
        "20s",
        "A connection is closed if a request is not complete, or a response is not read, within "
        "this time.",
    )
    connections: int = option(
        number(10, 10000),
        200,
        "Largest number of connections at the same time.  Further ones wait.",
    )


@dataclasses.dataclass(frozen=True)
class Metrics:
    """metrics: mailseal-metrics, figures for Prometheus (docs/monitoring.md)."""

    listen: str | None = option(
        optional(socket_name),
        None,
        "The socket on which mailseal-metrics answers Prometheus: host:port on the loopback "
        "interface, or a path.  null: nothing is counted.  After a change of this or another "
        "option of this section, restart mailseal's services.",
    )
    user: str = option(
        user_or_uid,
        "mailseal-metrics",
        "The user that mailseal-metrics runs as.",
    )
    socket_group: str = option(
        user_or_uid,
        "www-data",
        "If metrics.listen is a path: group of that unix socket, as a name or a gid.",
    )
    socket_mode: int = option(octal_mode, "0660", "Mode of that unix socket, in metrics.listen.")
    folder: str = option(
        absolute_path,
        "/run/mailseal/metrics",
        "Directory of the files in which the daemons count.  It must be on tmpfs.",
    )
    daemons: tuple[str, ...] = option(
        list_of(choice("agent", "lmtp", "sealer")),
        ("agent", "lmtp"),
        "The daemons that must run on this host: mailseal_up is 0 for those that do not run.  Of "
        "others, mailseal_up tells only if they have been started since the last boot.  Set it to "
        "[lmtp] on a host that only receives mail.",
    )


@dataclasses.dataclass(frozen=True)
class Options:
    """All sections, and the options that are in no section."""

    state_dir: str = option(
        absolute_path,
        "/var/lib/mailseal",
        "Directory of the keyrings (keys/, which only the agent can read) and of the public keys "
        "(public/, which mailseal-lmtp and Dovecot can read).",
    )
    log: Log = Log()
    dovecot: Dovecot = Dovecot()
    agent: Agent = Agent()
    index: Index = Index()
    keys: Keys = Keys()
    replica: Replica = Replica()
    login: Login = Login()
    delivery: Delivery = Delivery()
    seal: Seal = Seal()
    verify: Verify = Verify()
    web: Web = Web()
    metrics: Metrics = Metrics()


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
