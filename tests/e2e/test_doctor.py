# SPDX-License-Identifier: MIT
"""`mailseal doctor` names typical mistakes on a real server, and its remedies work as written.

One lab serves all of them: each test makes one mistake, and the server is as before after it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator

import pytest

from mailseal.keys.names import file_name
from tests.e2e.sick import ALICE, PLAIN, VERSION, Sick
from tests.lab import Lab
from tests.lab.place import AGENT_UID, MAIL_UID
from tests.lab.process import wait_until

MAIL = b"Subject: tangerine\n\nin the cellar\n"


@pytest.fixture(scope="module")
def whole() -> Iterator[Sick]:
    with Lab(
        {ALICE: "password"}, auth="behind-passwd-file", plain_users={PLAIN: "password"}
    ) as made:
        with made.login(ALICE) as imap:
            imap.select()
        assert made.mailseal("recovery-code", ALICE, "--stdin", stdin=b"password\n").returncode == 0
        yield Sick(made)


@pytest.fixture
def sick(whole: Sick) -> Iterator[Sick]:
    yield whole
    whole.cure()


Mistake = Callable[[Sick], None]


def in_dovecot(in_23: str, in_24: str = "") -> Mistake:
    """The same setting in both languages, or one for each."""
    return lambda sick: sick.dovecot(in_23 if VERSION == "2.3" or not in_24 else in_24)


def no_snippet(sick: Sick) -> None:
    """auth-behind-passwd-file.conf is not included: the site's own passdb and userdb remain."""

    def change(text: str) -> str:
        ours = r"(?:passdb|userdb) \{\n  driver = lua\n.*?\n\}\n"
        if VERSION == "2.4":
            ours = r"(?:passdb|userdb) mailseal \{\n.*?\n\}\n"
        return re.sub(ours, "", text, flags=re.DOTALL)

    sick.dovecot(change=change)


def shadowed(sick: Sick) -> None:
    """The site's passdb stays in front of mailseal's."""
    users = sick.lab.dovecot.wanted.users_file
    block = {
        "2.3": f"passdb {{\n  driver = passwd-file\n  args = {users}\n}}\n",
        "2.4": f"passdb site {{\n  driver = passwd-file\n  passwd_file_path = {users}\n}}\n",
    }[VERSION]
    sick.dovecot(change=lambda text: text.replace("passdb ", f"{block}passdb ", 1))


def no_relay(sick: Sick) -> None:
    """lmtp-relay.conf is not included."""
    sick.dovecot(change=lambda text: text.replace("mailseal-relay", "another"))
    os.unlink(sick.lab.dovecot.lmtp_socket)


def on_disk(sick: Sick) -> None:
    folder = "/var/lib/cache-on-disk"  # not made by anybody
    if VERSION == "2.4":
        sick.dovecot(f"mail_cache_path = {folder}/%{{user}}")
    else:
        sick.dovecot(f"mail_location = maildir:~/Maildir:INDEXCACHE={folder}/%u")


def attachments(sick: Sick) -> None:
    folder = sick.lab.place.path("attachments")
    if VERSION == "2.4":
        sick.dovecot(
            f"mail_driver = sdbox\nmail_path = ~/sdbox\nmail_ext_attachment_path = {folder}"
        )
    else:
        sick.dovecot(f"mail_location = sdbox:~/sdbox\nmail_attachment_dir = {folder}")


def scripts_elsewhere(sick: Sick) -> None:
    in_dovecot(
        "protocol lmtp {\n  mail_plugins = $mail_plugins sieve\n}\n"
        "plugin {\n  sieve = file:~/sieve;active=~/active.sieve\n}",
        "protocol lmtp {\n  mail_plugins {\n    sieve = yes\n  }\n}\n"
        "sieve_script personal {\n  driver = file\n  path = ~/sieve\n"
        "  active_path = ~/active.sieve\n}",
    )(sick)


def chown(path: Callable[[Lab], str], uid: int, mode: int = 0) -> Mistake:
    """Another owner, and perhaps another mode."""

    def make(sick: Sick) -> None:
        where = path(sick.lab)
        about = os.stat(where)

        def undo() -> None:
            os.chown(where, about.st_uid, about.st_gid)
            os.chmod(where, about.st_mode & 0o7777)

        sick.afterwards(undo)
        os.chown(where, uid, uid)
        os.chmod(where, mode or about.st_mode & 0o7777)

    return make


def stopped(name: str) -> Mistake:
    def make(sick: Sick) -> None:
        (sick.lab.stop_agent if name == "mailseal-agent" else sick.lab.delivery.stop)()
        sick.afterwards(sick.lab.start_agent)
        sick.afterwards(sick.lab.start_delivery)

    return make


def no_init(sick: Sick) -> None:
    state = sick.lab.place.path("state")
    os.rename(state, f"{state}.away")

    def undo() -> None:
        shutil.rmtree(state)
        os.rename(f"{state}.away", state)

    sick.afterwards(undo)


def postfix(*command: str, undo: tuple[str, ...]) -> Mistake:
    def make(sick: Sick) -> None:
        sick.afterwards(lambda: sick.lab.postfix.postconf(*undo))
        sick.lab.postfix.postconf(*command)

    return make


def not_switched(sick: Sick) -> None:
    value = sick.lab.postfix.postconf("-h", "virtual_transport").strip()
    there = f"lmtp:unix:{sick.lab.dovecot.lmtp_socket}"
    postfix("-e", f"virtual_transport = {there}", undo=("-e", f"virtual_transport = {value}"))(sick)


def touched(path: Callable[[Lab], str], check: str) -> Mistake:
    """Changed after the daemon was started; cure() does not restart it."""

    def make(sick: Sick) -> None:
        where = path(sick.lab)
        sick.afterwards(lambda: os.utime(where, (0, 0)))

        def is_newer() -> bool:
            os.utime(where)
            return bool(sick.new(check))

        wait_until(is_newer, f"{where} is newer than the daemon")

    return make


def old_cache(sick: Sick) -> None:
    path = os.path.join(sick.lab.maildir(ALICE), "dovecot.index.cache")
    with open(path, "wb") as stream:
        stream.write(b"a subject")
    os.chown(path, MAIL_UID, MAIL_UID)


def clear_mail(sick: Sick) -> None:
    path = os.path.join(sick.lab.maildir(ALICE), "cur", "1700000000.M1P1.lab:2,S")
    with open(path, "wb") as stream:
        stream.write(MAIL)
    os.chown(path, MAIL_UID, MAIL_UID)


def no_public_key(sick: Sick) -> None:
    folder = sick.lab.place.path("state", "public")
    os.unlink(os.path.join(folder, f"{file_name(ALICE)}.json"))


def users_away(sick: Sick) -> None:
    """The user database is down."""
    path = sick.lab.dovecot.wanted.users_file
    os.rename(path, f"{path}.away")
    sick.afterwards(lambda: os.rename(f"{path}.away", path))
    sick.restart("dovecot")
    sick.afterwards(lambda: sick.restart("dovecot"))


def one_way_in(sick: Sick) -> None:
    """Another user, without a recovery method; the remedy makes one."""
    sick.lab.add_user("bob@example.org")


def exposed(sick: Sick) -> None:
    """Other hosts could connect to it."""
    sick.only_written = True
    in_dovecot("listen = *\ndisable_plaintext_auth = no", "listen = *\nauth_allow_cleartext = yes")(
        sick
    )


MISTAKES: dict[str, tuple[Mistake, str, str]] = {
    "no auth-*.conf": (no_snippet, "dovecot", "has no passdb for mailseal"),
    "another passdb in front": (shadowed, "dovecot", "comes before mailseal's and ends"),
    "a command, literally": (
        in_dovecot(
            "mail_location = $(doveconf -h mail_location):INDEXCACHE=/run/mailseal/cache/%u",
            "mail_path = $(doveconf -h mail_path)",
        ),
        "literal",
        "no shell has replaced",
    ),
    "no lmtp-relay.conf": (no_relay, "sockets", "mailseal-relay does"),
    "no mail_crypt in imap": (
        in_dovecot(
            "protocol imap {\n  mail_plugins = \n}",
            "protocol imap {\n  mail_plugins {\n    mail_crypt = no\n  }\n}",
        ),
        "dovecot",
        "does not load mail_crypt in protocol imap",
    ),
    "the agent is down": (stopped("mailseal-agent"), "agent", "mailseal-agent does not answer"),
    "mailseal-lmtp is down": (stopped("mailseal-lmtp"), "lmtp", "mailseal-lmtp does not answer"),
    "no init": (no_init, "store", "is not a store of keys"),
    "group of the cache": (
        chown(lambda lab: lab.place.quick_path("cache"), 0, 0o770),
        "memory-folders",
        "cannot write to",
    ),
    "cache open to all": (
        chown(lambda lab: lab.place.quick_path("cache"), MAIL_UID, 0o777),
        "memory-folders",
        "open to all users",
    ),
    "cache on a disk": (on_disk, "index-cache", "cache-on-disk, on a disk"),
    "owner of the keys": (
        chown(lambda lab: lab.place.path("state", "keys"), 0),
        "keys-owner",
        "belongs to root",
    ),
    "public keys closed": (
        chown(lambda lab: lab.place.path("state", "public"), AGENT_UID, 0o700),
        "keys-owner",
        "is closed to Dovecot",
    ),
    "owner of the userdb socket": (
        chown(lambda lab: lab.dovecot.userdb_socket, 0, 0o600),
        "sockets",
        "dovecot.userdb_socket: the user",
    ),
    "Postfix is not switched": (not_switched, "transport", "does not deliver to mailseal-lmtp"),
    "transport still deferred": (
        postfix("-e", "defer_transports = mailseal", undo=("-X", "defer_transports")),
        "deferred",
        "keeps all mail for the transport mailseal",
    ),
    "lmtp in a chroot": (
        postfix("-F", "mailseal/unix/chroot = y", undo=("-F", "mailseal/unix/chroot = n")),
        "chroot",
        "runs in a chroot",
    ),
    "larger mails in Postfix": (
        postfix(
            "-e", "message_size_limit = 204857600", undo=("-e", "message_size_limit = 104857600")
        ),
        "agreement",
        "larger ones bounce",
    ),
    "another delimiter": (
        postfix("-e", "recipient_delimiter = -", undo=("-X", "recipient_delimiter")),
        "agreement",
        "recipient_delimiter is -",
    ),
    "CRAM-MD5": (in_dovecot("auth_mechanisms = plain cram-md5"), "mechanisms", "CRAM-MD5"),
    "Sieve scripts elsewhere": (scripts_elsewhere, "sieve-script", "~/active.sieve"),
    "attachments outside": (attachments, "dovecot", "attachments in separate files"),
    "passwords in the log": (
        in_dovecot("auth_verbose_passwords = plain"),
        "passwords-in-logs",
        "wrong passwords to the log",
    ),
    "debug messages": (in_dovecot("mail_debug = yes"), "debug-logs", "mail_debug is on"),
    "auth cache": (in_dovecot("auth_cache_size = 1 M"), "auth-cache", "auth_cache_size is set"),
    "passwords without TLS": (exposed, "login-encryption", "without TLS from other hosts"),
    "temporary files on a disk": (
        in_dovecot("mail_temp_dir = /var/lib"),
        "dovecot",
        "mail_temp_dir is /var/lib",
    ),
    "old index cache": (old_cache, "old-caches", "an index cache"),
    "mail in clear": (
        clear_mail,
        "stored-mail",
        "1 mail in clear in mailboxes of 1 enrolled",
    ),
    "no public key": (no_public_key, "keyrings", "public key"),
    "one way in": (one_way_in, "recovery", "bob@example.org"),
    "mailseal.yaml was changed": (
        touched(lambda lab: lab.config_path, "agent"),
        "agent",
        "it has the older options",
    ),
    "Dovecot's files were changed": (
        touched(lambda lab: lab.dovecot.config, "dovecot-running"),
        "dovecot-running",
        "it has the older settings",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_and_the_remedy_works(sick: Sick, name: str) -> None:
    make, check, words = MISTAKES[name]
    make(sick)
    found = [one for one in sick.new(check) if words in one["text"]]
    assert found, sick.results()
    sick.follow(found[0]["remedy"])
    assert [one for one in sick.new(check) if words in one["text"]] == []


def test_a_user_database_that_is_down(sick: Sick) -> None:
    """What is to be done depends on the database."""
    users_away(sick)
    (found,) = sick.new("user-database")
    assert re.search("cannot look up users|does not know enrolled users", found["text"])
    assert "passwd-file" in found["remedy"]
    sick.cure()
    assert sick.new("user-database") == []
