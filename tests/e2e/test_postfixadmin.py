# SPDX-License-Identifier: MIT
"""PostfixAdmin of Debian changes passwords, as docs/panels.md says."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.panel_site import PanelSite, log_in, panel_lab
from tests.e2e.sql_chains import Sqlite
from tests.lab import Lab
from tests.lab.panels import PostfixAdmin, missing
from tests.lab.place import MAIL_UID


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
def admin_panel() -> Iterator[tuple[PanelSite, PostfixAdmin]]:
    if what := missing():
        pytest.skip(f"to test this, install: {what}")
    with contextlib.ExitStack() as stack:
        lab = panel_lab()
        stack.callback(lab.stop)
        command = f"['{lab.hooks}/mailseal', '-c', '{lab.config_path}']"
        unreadable = _unreadable(lab)
        local = (
            # It runs after the change and before mailseal's function.
            f"register_shutdown_function(function () {{ if (file_exists('{unreadable}'))"
            " $GLOBALS['CONF']['database_tables']['mailbox'] = 'nowhere'; });\n"
            f"require_once '{lab.hooks}/panels/postfixadmin.php';\n"
            f"mailseal_postfixadmin({command});\n"
        )
        panel = PostfixAdmin(lab.place.path("web"), local)
        stack.callback(panel.stop)
        panel.setup()
        os.chmod(panel.database, 0o644)
        chain = _PostfixAdminTables(lab, panel.database)
        chain.start()
        site = PanelSite(chain)
        site.start()
        yield site, panel


def test_postfixadmin_changes_both(admin_panel: tuple[PanelSite, PostfixAdmin]) -> None:
    site, panel = admin_panel
    user = site.user()
    panel.change(log_in(panel, user), "password", "next 'one' $1")
    assert site.changed(user, "next 'one' $1")


def test_postfixadmin_refusals_change_nothing(admin_panel: tuple[PanelSite, PostfixAdmin]) -> None:
    """The wrong password, one that its policy refuses, and two that differ."""
    site, panel = admin_panel
    user = site.user()
    tab = log_in(panel, user)
    panel.change(tab, "guess", "next one")
    panel.change(tab, "password", "abc")
    panel.change(tab, "password", "next one", "another one")
    assert site.unchanged(user, "abc", "next one")


def test_postfixadmin_for_a_user_who_is_not_enrolled(
    admin_panel: tuple[PanelSite, PostfixAdmin],
) -> None:
    site, panel = admin_panel
    user = site.user(enrolled=False)
    panel.change(log_in(panel, user), "password", "next one")
    assert site.reads(user, "next one") and not site.reads(user, "password")


def _unreadable(lab: Lab) -> str:
    """While this file exists, the database cannot be read after a change."""
    return lab.place.path("web-cannot-read")


def test_both_passwords_stay_valid_if_the_database_cannot_be_read_back(
    admin_panel: tuple[PanelSite, PostfixAdmin],
) -> None:
    """The next login shows which password is valid."""
    site, panel = admin_panel
    user = site.user()
    tab = log_in(panel, user)
    with open(_unreadable(site.lab), "w", encoding="ascii"):
        panel.change(tab, "password", "next one")
    os.unlink(_unreadable(site.lab))
    assert site.logins(user) == 2
    assert site.opens_keyring(user, "password") and site.opens_keyring(user, "next one")
    assert site.changed(user, "next one")


def test_postfixadmin_without_the_agent_changes_nothing(
    admin_panel: tuple[PanelSite, PostfixAdmin],
) -> None:
    site, panel = admin_panel
    user = site.user()
    tab = log_in(panel, user)
    with site.without_agent():
        assert "Nothing was changed" in panel.change(tab, "password", "next one")
    assert site.unchanged(user, "next one")
