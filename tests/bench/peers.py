# SPDX-License-Identifier: MIT
"""The compared servers: mailseal-lmtp, and Dovecot's LMTP with and without mail_crypt.

All write Maildirs on the same disk with fsync, as the same user, and listen on a
unix socket.  Each has one user, carol@example.org.  Dovecot is the installed
one, with the lab's configuration.
"""

from __future__ import annotations

import abc
import os
import tempfile

from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.public import PublicStore
from tests.lab.dovecot import Dovecot, Wanted, installed_version, series
from tests.lab.place import MAIL_UID, Place, free_ports
from tests.lab.process import Server

USER = "carol@example.org"
PASSWORD = "bench"

# All sessions deliver to one user; the default of 2.4 is ten at a time.
_MANY_AT_ONCE = {"2.3": "", "2.4": "lmtp_user_concurrency_limit = unlimited\n"}

# mail_crypt with one key for all users, for each version of Dovecot.
_MAIL_CRYPT = {
    "2.3": """\
mail_plugins = mail_crypt
plugin {{
  mail_crypt_global_public_key = {public}
  mail_crypt_global_private_key = {private}
  mail_crypt_save_version = 2
}}
""",
    "2.4": """\
mail_plugins {{
  mail_crypt = yes
}}
crypt_write_algorithm = aes-256-gcm-sha256
crypt_global_public_key_file = inline:{public}
crypt_global_private_key bench {{
  crypt_private_key_file = inline:{private}
}}
""",
}


class Peer(abc.ABC):
    """One server with its own mail store."""

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self.place = place.within(name)
        self.mail = self.place.path("mail")
        self.lmtp = ""
        self.empty()

    @property
    def home(self) -> str:
        return os.path.join(self.mail, "example.org", "carol")

    @property
    def maildir(self) -> str:
        return os.path.join(self.home, "Maildir")

    def empty(self) -> None:
        """Make an empty mail store.

        The old one is renamed and deleted after all measurements: ext4 does not reuse an
        inode for a minute, and skipping 1,000 deleted ones at each open() took a fifth
        of the CPU time of all servers.
        """
        if os.path.isdir(self.home):
            os.rename(self.home, tempfile.mkdtemp(prefix="old-", dir=self.mail))
        os.makedirs(self.home)
        for folder in (os.path.dirname(self.home), self.home):
            os.chown(folder, MAIL_UID, MAIL_UID)

    @abc.abstractmethod
    def start(self) -> None:
        """Start it and wait until it is ready."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End it and its children."""


class DovecotPeer(Peer):
    """Dovecot's LMTP, with mail_crypt if there is a key.

    As with Debian's package and a careful postmaster: Dovecot's defaults, one process
    for each client, and a passwd-file.
    """

    def __init__(self, name: str, place: Place, key: PrivateKey | None) -> None:
        super().__init__(name, place)
        imap, pop3 = free_ports(2)
        language = series(installed_version())
        extra = f"mail_temp_dir = {self.place.quick_path('tmp')}\n" + _MANY_AT_ONCE[language]
        if key is not None:
            extra += _MAIL_CRYPT[language].format(
                public=key.public.dovecot_string(), private=key.dovecot_string()
            )
        self.dovecot = Dovecot(
            Wanted(self.place, imap, pop3, auth="passwd-file", sealing=False, extra=extra)
        )
        self.dovecot.write_users({USER: PASSWORD})
        self.imap = self.dovecot.imap
        self.lmtp = self.dovecot.lmtp_socket

    def start(self) -> None:
        self.dovecot.start()

    def stop(self) -> None:
        self.dovecot.stop()


class MailsealPeer(Peer):
    """mailseal-lmtp with `settings` in its delivery section.

    It looks up users in `dovecot`, and writes to the same mail store.
    """

    def __init__(
        self,
        name: str,
        place: Place,
        code: str,
        key: PrivateKey,
        dovecot: DovecotPeer,
        **settings: object,
    ) -> None:
        super().__init__(name, place)
        self.mail = dovecot.mail
        state = self.place.path("state")
        os.mkdir(state)
        store = PublicStore(os.path.join(state, "public"))
        store.prepare()
        store.publish(USER, key.public)
        self.lmtp = self.place.quick_path("lmtp.sock")
        log = self.place.path("log", "mailseal.log")
        with open(log, "a", encoding="utf-8"):
            os.chown(log, MAIL_UID, MAIL_UID)
        self.config = self.place.path("mailseal.yaml")
        lines = [
            f"state_dir: {state}",
            f"log: {{to: {log}}}",
            "dovecot:",
            f"  userdb_socket: {dovecot.dovecot.userdb_socket}",
            f"  lmtp_socket: {dovecot.lmtp}",
            "delivery:",
            f"  user: {MAIL_UID}",
            f"  listen: [{self.lmtp}]",
            "  deliver_socket: null",
        ]
        lines += [f"  {option}: {value}" for option, value in settings.items()]
        with open(self.config, "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
        self.hooks = os.path.join(code, "hooks")
        command = [os.path.join(self.hooks, "mailseal-lmtp"), "-c", self.config]
        self.server = Server(name, command, self.place.path("log", "stderr"))

    def start(self) -> None:
        self.server.start(until=[self.lmtp])

    def stop(self) -> None:
        self.server.stop()
