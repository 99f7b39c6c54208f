# SPDX-License-Identifier: MIT
"""Roundcube of Debian changes passwords, as docs/panels.md says."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.panel_site import PanelSite, log_in, panel_lab
from tests.e2e.sql_chains import Sqlite
from tests.lab.panels import WEB_USER, Roundcube, missing

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


def give_to_web_server(path: str) -> None:
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
        give_to_web_server(self._path)


@pytest.fixture(scope="module")
def webmail() -> Iterator[tuple[PanelSite, Roundcube]]:
    if what := missing():
        pytest.skip(f"to test this, install: {what}")
    with contextlib.ExitStack() as stack:
        lab = panel_lab()
        stack.callback(lab.stop)
        chain = _OwnDatabase(lab)
        chain.start()
        site = PanelSite(chain)
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


def test_roundcube_changes_both(webmail: tuple[PanelSite, Roundcube]) -> None:
    site, roundcube = webmail
    user = site.user()
    assert "confirmation" in roundcube.change(log_in(roundcube, user), "password", "next 'one' $1")
    assert site.changed(user, "next 'one' $1")
    assert "confirmation" in roundcube.change(
        log_in(roundcube, user, "next 'one' $1"), "next 'one' $1", "älter"
    )
    assert site.reads(user, "älter")


def test_roundcube_with_the_wrong_password_changes_nothing(
    webmail: tuple[PanelSite, Roundcube],
) -> None:
    site, roundcube = webmail
    user = site.user()
    tab = log_in(roundcube, user)
    assert "confirmation" not in roundcube.change(tab, "guess", "next one")
    assert site.unchanged(user, "next one")


def test_roundcube_for_a_user_who_is_not_enrolled(webmail: tuple[PanelSite, Roundcube]) -> None:
    site, roundcube = webmail
    user = site.user(enrolled=False)
    assert "confirmation" in roundcube.change(log_in(roundcube, user), "password", "next one")
    assert site.reads(user, "next one") and not site.reads(user, "password")


def test_roundcube_when_it_is_certain_that_nothing_changed(
    webmail: tuple[PanelSite, Roundcube],
) -> None:
    site, roundcube = webmail
    user = site.user()
    tab = log_in(roundcube, user)
    with _driver(roundcube, "lossy"):
        assert "error" in roundcube.change(tab, "password", "history")
    assert site.unchanged(user, "history")


@pytest.mark.parametrize("new", ["committed, but the answer is lost", "lost on the way"])
def test_roundcube_with_an_unknown_outcome(webmail: tuple[PanelSite, Roundcube], new: str) -> None:
    """Both passwords open the keyring; a login with the one in the database ends the change."""
    site, roundcube = webmail
    user = site.user()
    tab = log_in(roundcube, user)
    with _driver(roundcube, "lossy"):
        assert "error" in roundcube.change(tab, "password", new)
    assert site.opens_keyring(user, "password") and site.opens_keyring(user, new)
    there, gone = (new, "password") if new.startswith("committed") else ("password", new)
    assert site.reads(user, there) and not site.reads(user, gone)
    if there == new:
        assert site.logins(user) == 1 and not site.opens_keyring(user, "password")


def test_roundcube_in_two_tabs_at_once(webmail: tuple[PanelSite, Roundcube]) -> None:
    """In any order, the password in the database opens the keyring."""
    site, roundcube = webmail
    for _ in range(3):
        user = site.user()
        tabs = [log_in(roundcube, user), log_in(roundcube, user)]
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


def test_roundcube_without_the_agent_changes_nothing(webmail: tuple[PanelSite, Roundcube]) -> None:
    site, roundcube = webmail
    user = site.user()
    tab = log_in(roundcube, user)
    form = tab.get("?_task=settings&_action=plugin.password")
    assert "_newpasswd" in form
    with site.without_agent():
        assert "error" in roundcube.change(tab, "password", "next one")
    assert site.unchanged(user, "next one")


def test_the_panels_user_may_do_nothing_else(webmail: tuple[PanelSite, Roundcube]) -> None:
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
