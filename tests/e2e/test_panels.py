# SPDX-License-Identifier: MIT
"""Roundcube and PostfixAdmin of Debian change passwords, as docs/panels.md says."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.chains import Sqlite
from tests.e2e.mails import HEADERS
from tests.lab import Imap, Lab, Refused
from tests.lab.dovecot import snippet
from tests.lab.panels import WEB_USER, PostfixAdmin, Roundcube, missing
from tests.lab.place import MAIL_UID
from tests.lab.smtp import send

_numbers = itertools.count(1)
MAIL = HEADERS + b"the quince is on the sill\r\n"

# A driver that fails after or before the change of the database.
LOSSY = """<?php
class rcube_lossy_password {
    public function save($current, $new, $username) {
        if (strpos($new, 'committed') !== false) {
            require_once __DIR__ . '/sql.php';
            (new rcube_sql_password())->save($current, $new, $username);
        }
        return strpos($new, 'history') !== false ? PASSWORD_IN_HISTORY : PASSWORD_ERROR;
    }
}
"""


class _Site:
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


def _lab() -> Lab:
    uid = pwd.getpwnam(WEB_USER).pw_uid
    return Lab({}, auth=None, config_extra={"agent.panel_users": [uid]})


def _for_the_web(path: str) -> None:
    for name in (os.path.dirname(path), path):
        shutil.chown(name, WEB_USER, WEB_USER)


class _OwnDatabase(Sqlite):
    """In a separate folder that the web server's user can write to."""

    @property
    def _path(self) -> str:
        return self.lab.place.path("database", "users.sqlite")

    def start(self) -> None:
        os.mkdir(os.path.dirname(self._path))
        super().start()
        _for_the_web(self._path)


@pytest.fixture(scope="module")
def webmail() -> Iterator[tuple[_Site, Roundcube]]:
    if what := missing():
        pytest.skip(f"to test this, install: {what}")
    with contextlib.ExitStack() as stack:
        lab = _lab()
        stack.callback(lab.stop)
        chain = _OwnDatabase(lab)
        chain.start()
        site = _Site(chain)
        site.start()
        options = (
            "$config['password_mailseal_driver'] = 'sql';\n"
            f"$config['password_mailseal_command'] = "
            f"['{lab.hooks}/mailseal', '-c', '{lab.config_path}'];\n"
            f"$config['password_db_dsn'] = 'sqlite:///{chain._path}?mode=0640';\n"
            "$config['password_query'] = "
            "'UPDATE users SET password = %p WHERE local = %l AND domain = %d';\n"
        )
        panels = os.path.join(lab.hooks, "panels")
        roundcube = Roundcube(lab.place.path("web"), lab.imap[1], panels, options)
        stack.callback(roundcube.stop)
        drivers = f"{roundcube.folder}/roundcube/plugins/password/drivers"
        with open(f"{drivers}/lossy.php", "w", encoding="utf-8") as stream:
            stream.write(LOSSY)
        yield site, roundcube


def _login(panel: Roundcube | PostfixAdmin, user: str, password: str = "password"):  # type: ignore[no-untyped-def]
    tab = panel.login(user, password)
    assert tab is not None, f"{user} cannot log in"
    return tab


@contextlib.contextmanager
def _driver(roundcube: Roundcube, name: str) -> Iterator[None]:
    path = f"{roundcube.folder}/config/config.inc.php"
    with open(path, encoding="utf-8") as stream:
        before = stream.read()
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(f"$config['password_mailseal_driver'] = '{name}';\n")
    try:
        yield
    finally:
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(before)


def test_roundcube_changes_both(webmail: tuple[_Site, Roundcube]) -> None:
    site, roundcube = webmail
    user = site.user()
    assert "confirmation" in roundcube.change(_login(roundcube, user), "password", "next 'one' $1")
    assert site.changed(user, "next 'one' $1")
    assert "confirmation" in roundcube.change(
        _login(roundcube, user, "next 'one' $1"), "next 'one' $1", "älter"
    )
    assert site.reads(user, "älter")


def test_roundcube_with_the_wrong_password_changes_nothing(
    webmail: tuple[_Site, Roundcube],
) -> None:
    site, roundcube = webmail
    user = site.user()
    tab = _login(roundcube, user)
    assert "confirmation" not in roundcube.change(tab, "guess", "next one")
    assert site.unchanged(user, "next one")


def test_roundcube_for_a_user_who_is_not_enrolled(webmail: tuple[_Site, Roundcube]) -> None:
    site, roundcube = webmail
    user = site.user(enrolled=False)
    assert "confirmation" in roundcube.change(_login(roundcube, user), "password", "next one")
    assert site.reads(user, "next one") and not site.reads(user, "password")


def test_roundcube_when_it_is_certain_that_nothing_changed(
    webmail: tuple[_Site, Roundcube],
) -> None:
    site, roundcube = webmail
    user = site.user()
    tab = _login(roundcube, user)
    with _driver(roundcube, "lossy"):
        assert "error" in roundcube.change(tab, "password", "history")
    assert site.unchanged(user, "history")


@pytest.mark.parametrize("new", ["committed, but the answer is lost", "lost on the way"])
def test_roundcube_with_an_unknown_outcome(webmail: tuple[_Site, Roundcube], new: str) -> None:
    """Both passwords open the keyring; a login with the one in the database ends the change."""
    site, roundcube = webmail
    user = site.user()
    tab = _login(roundcube, user)
    with _driver(roundcube, "lossy"):
        assert "error" in roundcube.change(tab, "password", new)
    assert site.opens_keyring(user, "password") and site.opens_keyring(user, new)
    there, gone = (new, "password") if new.startswith("committed") else ("password", new)
    assert site.reads(user, there) and not site.reads(user, gone)
    if there == new:
        assert site.logins(user) == 1 and not site.opens_keyring(user, "password")


def test_roundcube_in_two_tabs_at_once(webmail: tuple[_Site, Roundcube]) -> None:
    """In any order, the password in the database opens the keyring."""
    site, roundcube = webmail
    for _ in range(3):
        user = site.user()
        tabs = [_login(roundcube, user), _login(roundcube, user)]
        with ThreadPoolExecutor(2) as pool:
            said = list(
                pool.map(
                    lambda pair: roundcube.change(pair[1], "password", f"of tab {pair[0]}"),
                    enumerate(tabs),
                )
            )
        won = [n for n, text in enumerate(said) if "confirmation" in text]
        assert len(won) == 1, said
        assert site.reads(user, f"of tab {won[0]}"), said
        assert site.logins(user) == 1


def test_roundcube_without_the_agent_changes_nothing(webmail: tuple[_Site, Roundcube]) -> None:
    site, roundcube = webmail
    user = site.user()
    tab = _login(roundcube, user)
    form = tab.get("?_task=settings&_action=plugin.password")
    assert "_newpasswd" in form
    with site.without_agent():
        assert "error" in roundcube.change(tab, "password", "next one")
    assert site.unchanged(user, "next one")


def test_the_panels_user_may_do_nothing_else(webmail: tuple[_Site, Roundcube]) -> None:
    """Not even with the options that run other programs."""
    site, _ = webmail
    user = site.user()
    uid = pwd.getpwnam(WEB_USER)

    def run(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [f"{site.lab.hooks}/mailseal", "-c", site.lab.config_path, *words],
            input=stdin,
            capture_output=True,
            user=uid.pw_uid,
            group=uid.pw_gid,
            extra_groups=[],
        )

    for words in (
        ("rotate", user, "--stdin"),
        ("backup", "/tmp/never"),
        ("status",),
        ("lock", user),
        ("lock", "--all"),
        ("repair", user),
        ("export-key", user, "--stdin"),
        ("enroll", "--unchecked", "new@example.org", "--stdin"),
        ("unenroll", user),
    ):
        done = run(*words, stdin=b"password\n")
        assert done.returncode != 0, words
    assert not os.path.exists("/tmp/never")
    found = run("passwd", user, "--stdin", "--then", "id", "-u", stdin=b"password\nnext\n")
    assert str(uid.pw_uid).encode() in found.stdout + found.stderr
    assert run("passwd", "--stdin", "--keep-old", user, "--then", "id").returncode == 64
    assert site.opens_keyring(user, "next")


class _PostfixAdminTables(Sqlite):
    """Dovecot's queries for PostfixAdmin's own tables."""

    def __init__(self, lab: Lab, database: str) -> None:
        super().__init__(lab)
        self._database = database

    @property
    def _path(self) -> str:
        return self._database

    def start(self) -> None:
        self._write(self._path)

    def _query(self, name: str, user: str) -> tuple[str, str]:
        home = f"'{self.lab.place.path('mail')}/' || domain || '/' || local_part"
        fields = f"{home} AS home, {MAIL_UID} AS uid, {MAIL_UID} AS gid"
        where = f"FROM mailbox WHERE username = '{user}' AND active = 1"
        return f"SELECT username AS {name}, password {where}", f"SELECT {fields} {where}"

    def _write(self, connect: str) -> None:
        password, fields = self._query("user", "%u")
        with open(self._file, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(f"driver = sqlite\nconnect = {connect}\ndefault_pass_scheme = CRYPT\n")
            stream.write(f"password_query = {password}\nuser_query = {fields}\n")

    def block_24(self) -> str:
        password, fields = self._query("user", "%{user}")
        return (
            f"sql_driver = sqlite\n{self._connect_24()}"
            f"passdb sql {{\n  default_password_scheme = CRYPT\n  query = {password}\n}}\n"
            f"userdb sql {{\n  query = {fields}\n}}\n"
        )

    def set_password(self, user: str, password: str) -> None:
        self.passwords[user] = password
        made = subprocess.run(
            ["doveadm", "pw", "-s", "SHA512-CRYPT"],
            input=f"{password}\n{password}\n".encode(),
            capture_output=True,
            check=True,
        )
        hashed = made.stdout.decode().strip().removeprefix("{SHA512-CRYPT}")
        local, _, domain = user.partition("@")
        with contextlib.closing(sqlite3.connect(self._path)) as database, database:
            database.execute(
                "INSERT INTO mailbox (username, password, name, maildir, local_part, domain)"
                " VALUES (?, ?, '', '', ?, ?)",
                (user, hashed, local, domain),
            )


@pytest.fixture(scope="module")
def admin_panel() -> Iterator[tuple[_Site, PostfixAdmin]]:
    if what := missing():
        pytest.skip(f"to test this, install: {what}")
    with contextlib.ExitStack() as stack:
        lab = _lab()
        stack.callback(lab.stop)
        command = f"['{lab.hooks}/mailseal', '-c', '{lab.config_path}']"
        local = (
            f"require_once '{lab.hooks}/panels/postfixadmin.php';\n"
            f"mailseal_postfixadmin({command});\n"
        )
        panel = PostfixAdmin(lab.place.path("web"), local)
        stack.callback(panel.stop)
        panel.setup()
        os.chmod(panel.database, 0o644)
        chain = _PostfixAdminTables(lab, panel.database)
        chain.start()
        site = _Site(chain)
        site.start()
        yield site, panel


def test_postfixadmin_changes_both(admin_panel: tuple[_Site, PostfixAdmin]) -> None:
    site, panel = admin_panel
    user = site.user()
    panel.change(_login(panel, user), "password", "next 'one' $1")
    assert site.changed(user, "next 'one' $1")


def test_postfixadmin_refusals_change_nothing(admin_panel: tuple[_Site, PostfixAdmin]) -> None:
    """The wrong password, one that its policy refuses, and two that differ."""
    site, panel = admin_panel
    user = site.user()
    tab = _login(panel, user)
    panel.change(tab, "guess", "next one")
    panel.change(tab, "password", "abc")
    panel.change(tab, "password", "next one", "another one")
    assert site.unchanged(user, "abc", "next one")


def test_postfixadmin_for_a_user_who_is_not_enrolled(
    admin_panel: tuple[_Site, PostfixAdmin],
) -> None:
    site, panel = admin_panel
    user = site.user(enrolled=False)
    panel.change(_login(panel, user), "password", "next one")
    assert site.reads(user, "next one") and not site.reads(user, "password")


def test_postfixadmin_without_the_agent_changes_nothing(
    admin_panel: tuple[_Site, PostfixAdmin],
) -> None:
    site, panel = admin_panel
    user = site.user()
    tab = _login(panel, user)
    with site.without_agent():
        assert "Nothing was changed" in panel.change(tab, "password", "next one")
    assert site.unchanged(user, "next one")
