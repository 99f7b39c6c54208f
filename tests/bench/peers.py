# SPDX-License-Identifier: MIT
"""The servers that are compared: mailseal-lmtp, and Dovecot's LMTP with and without mail_crypt.

All write Maildirs on the same disk with fsync on, as the same user, and
listen on a unix socket.  Each has one user, carol@example.org.
"""

from __future__ import annotations

import os
import shutil

from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys.public import PublicStore
from tests.lab.place import MAIL_UID, Place, free_ports
from tests.lab.process import Server

USER = "carol@example.org"
PASSWORD = "bench"

# What Debian's package and a careful postmaster have: everything Dovecot
# does by itself, one process a client, no services that take no part.
_DOVECOT = """\
base_dir = {base}
log_path = {log}
protocols = lmtp imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
first_valid_uid = 1000
mail_location = maildir:~/Maildir
mail_uid = {uid}
mail_gid = {uid}
mail_temp_dir = {temp}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={uid} home={mail}/%d/%n
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
}}
service auth {{
  unix_listener auth-userdb {{
    mode = 0777
  }}
}}
"""

_MAIL_CRYPT = """\
mail_plugins = mail_crypt
plugin {{
  mail_crypt_global_public_key = {public}
  mail_crypt_global_private_key = {private}
  mail_crypt_save_version = {save}
}}
"""


class Peer:
    """One server with a mail store of its own."""

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self.place = place
        self.folder = place.path(name)
        self.mail = os.path.join(self.folder, "mail")
        self.base = place.quick_path(name)
        for folder in (self.folder, self.mail, self.base):
            os.makedirs(folder, exist_ok=True)
        os.chown(self.mail, MAIL_UID, MAIL_UID)
        self.home = os.path.join(self.mail, "example.org", "carol")
        self.empty()
        self.server: Server
        self.lmtp = ""

    @property
    def maildir(self) -> str:
        return os.path.join(self.home, "Maildir")

    def empty(self) -> None:
        """A store without mails."""
        shutil.rmtree(self.home, ignore_errors=True)
        os.makedirs(self.home)
        for folder in (os.path.dirname(self.home), self.home):
            os.chown(folder, MAIL_UID, MAIL_UID)

    def start(self) -> None:
        self.server.start(until=[self.lmtp])

    def stop(self) -> None:
        self.server.stop()


class DovecotPeer(Peer):
    """Dovecot's LMTP.  `save`: None without encryption, else mail_crypt's save version."""

    def __init__(self, name: str, place: Place, key: PrivateKey | None, save: int = 2) -> None:
        super().__init__(name, place)
        self.imap = ("127.0.0.1", free_ports(1)[0])
        text = _DOVECOT.format(
            base=self.base,
            log=os.path.join(self.folder, "log"),
            uid=MAIL_UID,
            temp=place.quick_path("tmp"),
            password=PASSWORD,
            mail=self.mail,
            imap=self.imap[1],
        )
        if key is not None:
            text += _MAIL_CRYPT.format(
                public=key.public.dovecot_string(), private=key.dovecot_string(), save=save
            )
        self._write("dovecot.conf", text)
        command = ["/usr/sbin/dovecot", "-F", "-c", os.path.join(self.folder, "dovecot.conf")]
        self.server = Server(name, command, os.path.join(self.folder, "master.log"))
        self.lmtp = os.path.join(self.base, "lmtp")

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as stream:
            stream.write(text)


class MailsealPeer(Peer):
    """mailseal-lmtp with `settings` in its delivery section; asks `dovecot` for its users."""

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
        self.mail, self.home = dovecot.mail, dovecot.home
        state = os.path.join(self.folder, "state")
        os.makedirs(state, exist_ok=True)
        store = PublicStore(os.path.join(state, "public"))
        store.prepare()
        store.publish(USER, key.public)
        self.lmtp = os.path.join(self.base, "lmtp.sock")
        os.chown(self.base, MAIL_UID, MAIL_UID)
        log = os.path.join(self.folder, "log")
        with open(log, "a", encoding="utf-8"):
            os.chown(log, MAIL_UID, MAIL_UID)
        self.config = os.path.join(self.folder, "mailseal.yaml")
        lines = [
            f"state_dir: {state}",
            f"log: {{to: {log}}}",
            "dovecot:",
            f"  userdb_socket: {dovecot.base}/auth-userdb",
            f"  lmtp_socket: {dovecot.base}/lmtp",
            "delivery:",
            f"  user: {MAIL_UID}",
            f"  listen: [{self.lmtp}]",
        ]
        lines += [f"  {option}: {value}" for option, value in settings.items()]
        with open(self.config, "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
        self.hooks = os.path.join(code, "hooks")
        command = [os.path.join(self.hooks, "mailseal-lmtp"), "-c", self.config]
        self.server = Server(name, command, os.path.join(self.folder, "stderr"))
