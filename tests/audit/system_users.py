# SPDX-License-Identifier: MIT
"""The audit with system users, as docs/system-users.md sets them up: each has an own uid and a home
directory, PAM checks the password, Postfix passes mail with mailbox_transport.

Only this Dovecot sees the accounts: it has files of its own at /etc/passwd, /etc/shadow and
/etc/pam.d.  The real pam_unix and Dovecot's driver passwd read them.
"""

from __future__ import annotations

import os
import subprocess

from tests.audit.day import PASSWORD, USERS, Day
from tests.lab import Lab
from tests.lab.dovecot import series, snippet

POSTFIX = {"mydestination": "example.org", "virtual_mailbox_domains": ""}
_FIRST_UID = 60621
_BLOCKS = {"2.3": "", "2.4": "passdb pam {\n}\nuserdb passwd {\n}\n"}
_CACHE = {
    "2.3": "mail_location = maildir:~/Maildir:INDEXCACHE={folder}/%u\n",
    "2.4": "mail_cache_path = {folder}/%{{user}}\n",
}
_MOUNT = """\
mount --bind $0/pam.d /etc/pam.d &&
for name in passwd shadow; do mount --bind $0/$name /etc/$name || exit 1; done
exec "$@"
"""


def name_of(user: str) -> str:
    """The account of an address."""
    return user.partition("@")[0]


def uid_of(user: str) -> int:
    """The uid of the account; its gid is the same."""
    return _FIRST_UID + USERS.index(user)


class SystemDay(Day):
    """The same day."""

    def _name(self, user: str) -> str:
        return name_of(user)

    def _uid(self, user: str) -> int:
        return uid_of(user)


def prepare(lab: Lab) -> str:
    """Accounts, homes and folders; returns the text for Dovecot."""
    _homes(lab)
    _accounts(lab)
    lab.postfix.postconf("-M", "local/unix = local unix - n n - - local")
    cache = _folders(lab)
    version = series(lab.dovecot.version)
    included = lab.place.path("dovecot", "mailseal-cache.conf")
    with open(included, "w", encoding="ascii") as stream:
        stream.write(_CACHE[version].format(folder=cache))
    places = {
        **lab.dovecot.wanted.places,
        "/etc/dovecot/mailseal-cache.conf": included,
    }
    parts = [snippet(version, "system-users", places), _BLOCKS[version]]
    return "\n".join([*parts, snippet(version, "auth-behind-pam", places)])


def _homes(lab: Lab) -> None:
    for user in USERS:
        home = lab.home(user)
        os.makedirs(home)
        os.chmod(home, 0o700)
        os.chown(home, uid_of(user), uid_of(user))
        for above in (os.path.dirname(home), lab.place.path("mail")):
            os.chown(above, 0, 0)
            os.chmod(above, 0o711)


def _accounts(lab: Lab) -> None:
    folder = lab.place.path("accounts")
    os.makedirs(os.path.join(folder, "pam.d"))
    made = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD.encode(), capture_output=True
    )
    made.check_returncode()
    passwd = [
        f"{name_of(user)}:x:{uid_of(user)}:{uid_of(user)}::{lab.home(user)}:/bin/sh\n"
        for user in USERS
    ]
    shadow = [f"{name_of(user)}:{made.stdout.decode().strip()}:20000::::::\n" for user in USERS]
    for name, lines in (("passwd", passwd), ("shadow", shadow)):
        with open(f"/etc/{name}", encoding="utf-8") as stream:
            text = stream.read()
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o644 if name == "passwd" else 0o600)
            stream.write(text + "".join(lines))
    with open(os.path.join(folder, "pam.d", "dovecot"), "w", encoding="ascii") as stream:
        stream.write("auth required pam_unix.so\naccount required pam_unix.so\n")
    server = lab.dovecot._server
    server.command = ["unshare", "-m", "sh", "-c", _MOUNT, folder, *server.command]


def _folders(lab: Lab) -> str:
    """Those in memory; returns the one of the caches, whose name nobody can guess."""
    cache = lab.place.quick_path("cache", os.urandom(16).hex())
    os.mkdir(cache)
    for path, mode in (
        (lab.place.quick_path("cache"), 0o711),
        (cache, 0o1733),
        (lab.place.quick_path("tmp"), 0o1733),
    ):
        os.chown(path, 0, 0)
        os.chmod(path, mode)
    return cache
