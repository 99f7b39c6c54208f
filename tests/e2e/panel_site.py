# SPDX-License-Identifier: MIT
"""A lab behind the database of a panel, and what users can log in with."""

from __future__ import annotations

import contextlib
import itertools
import pwd
from collections.abc import Iterator

from tests.e2e.mails import HEADERS
from tests.e2e.sql_chains import Sqlite
from tests.lab import Imap, Lab, Refused
from tests.lab.dovecot import snippet
from tests.lab.panels import WEB_USER, PostfixAdmin, Roundcube
from tests.lab.smtp import send

_numbers = itertools.count(1)
MAIL = HEADERS + b"the quince is on the sill\r\n"


class PanelSite:
    """A lab behind the panel's database."""

    def __init__(self, chain: Sqlite) -> None:
        self.lab = chain.lab
        self.chain = chain

    def start(self) -> None:
        places = {**self.lab.dovecot.wanted.places, **self.chain.places()}
        before = self.chain.block_24() if self.lab.dovecot.version.startswith("2.4.") else ""
        shipped = snippet(self.lab.dovecot.version, self.chain.snippet, places)
        self.lab.dovecot.write_config(extra=before + shipped)
        self.lab.start()

    def user(self, *, enrolled: bool = True) -> str:
        """A user with a sealed mail; the password is "password"."""
        name = f"user{next(_numbers)}@example.org"
        self.chain.set_password(name, "password")
        if enrolled:
            self.lab.add_user(name, "password")
        send(self.lab.smtp, "eve@example.net", [name], MAIL)
        self.lab.wait_delivered()
        return name

    def reads(self, user: str, password: str) -> bool:
        """Whether this password opens the mailbox and its mail.  False: it is refused."""
        try:
            with Imap(self.lab.imap, user, password) as imap:
                assert b"the quince is on the sill" in imap.bodies()[0]
        except Refused:
            return False
        return True

    def opens_keyring(self, user: str, password: str) -> bool:
        done = self.lab.mailseal("export-key", user, "--stdin", stdin=password.encode() + b"\n")
        assert done.returncode in (0, 77), done.stderr
        return done.returncode == 0

    def changed(self, user: str, new: str) -> bool:
        """Whether only the new password is valid, in both places."""
        reads = self.reads(user, new) and not self.reads(user, "password")
        return reads and not self.opens_keyring(user, "password") and self.logins(user) == 1

    def unchanged(self, user: str, *tried: str) -> bool:
        """Whether only the old password is valid, in both places."""
        opens = any(self.opens_keyring(user, new) for new in tried)
        return self.logins(user) == 1 and not opens and self.reads(user, "password")

    @contextlib.contextmanager
    def without_agent(self) -> Iterator[None]:
        self.lab.stop_agent()
        try:
            yield
        finally:
            self.lab.start_agent()

    def logins(self, user: str) -> int:
        """How many login passwords the keyring has."""
        said = self.lab.mailseal("status", user).stdout.decode()
        return sum(line.split()[:1] == ["slot"] and " login" in line for line in said.splitlines())


def panel_lab() -> Lab:
    uid = pwd.getpwnam(WEB_USER).pw_uid
    return Lab({}, auth=None, config_extra={"agent.panel_users": [uid]})


def log_in(panel: Roundcube | PostfixAdmin, user: str, password: str = "password"):  # type: ignore[no-untyped-def]
    tab = panel.login(user, password)
    assert tab is not None, f"{user} cannot log in"
    return tab
