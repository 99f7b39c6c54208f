# SPDX-License-Identifier: MIT
"""The plugin in Debian's Roundcube: the tab in the settings, and the password driver."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator

import pytest

from tests.lab.panels import WEB_USER, Browser, Roundcube, missing
from tests.web.site import PASSWORD, WEB_UID, Site, wait

URL = "https://mail.example.org/mailseal/"
NEW = "a new one, set in Roundcube"

# The site's own driver: it sets the password in the passwd-file, as an SQL driver does in SQL.
INNER = """<?php
class rcube_inner_password {
    public function save($current, $new, $username) {
        $text = file_get_contents('%(users)s');
        $name = preg_quote($username);
        $put = function ($found) use ($new) {
            return $found[1] . $new;
        };
        $text = preg_replace_callback("/^($name:\\\\{PLAIN\\\\})[^:]*/m", $put, $text, -1, $count);
        file_put_contents('%(users)s', $text);
        return $count === 1 ? PASSWORD_SUCCESS : PASSWORD_ERROR;
    }
}
"""


@pytest.fixture(scope="module")
def webmail() -> Iterator[tuple[Site, Roundcube]]:
    if what := missing():
        pytest.skip(f"to test this, install: {what}")
    uid = pwd.getpwnam(WEB_USER).pw_uid
    with Site(**{"agent.panel_users": [WEB_UID, uid]}) as site:
        lab = site.lab
        command = f"['{lab.hooks}/mailseal', '-c', '{lab.config_path}']"
        options = (
            "$config['plugins'] = ['password', 'mailseal'];\n"
            "$config['password_driver'] = 'inner';\n"
            f"$config['mailseal_url'] = '{URL}';\n"
            f"$config['password_mailseal_command'] = {command};\n"
        )
        panels = os.path.join(lab.hooks, "panels")
        roundcube = Roundcube(lab.place.path("web"), lab.imap[1], panels, options)
        try:
            users = lab.dovecot.wanted.users_file
            os.chmod(users, 0o666)
            drivers = f"{roundcube.folder}/roundcube/plugins/password/drivers"
            with open(f"{drivers}/inner.php", "w", encoding="utf-8") as stream:
                stream.write(INNER % {"users": users})
            yield site, roundcube
        finally:
            roundcube.stop()


def tab_of(roundcube: Roundcube, user: str, password: str = PASSWORD) -> Browser:
    tab = roundcube.login(user, password)
    assert tab is not None
    return tab


def test_the_tab_shows_the_state_and_links_to_the_page(webmail: tuple[Site, Roundcube]) -> None:
    site, roundcube = webmail
    user = site.user(mails=0)
    tab = tab_of(roundcube, user)
    assert "plugin.mailseal" in tab.get("?_task=settings")
    page = tab.get("?_task=settings&_action=plugin.mailseal")
    assert "Encryption is off" in page and f"{URL}turn-on" in page
    site.enroll(user)
    app = site.ok("app", user=user, password=PASSWORD, label='<b>"phone').text("code")
    page = tab.get("?_task=settings&_action=plugin.mailseal")
    assert "Encryption is on" in page and site.state(user)["key_id"][:16] in page
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert "no recovery code" not in page and f"{URL}recovery-code" in page
    page = tab_of(roundcube, user, app).get("?_task=settings&_action=plugin.mailseal")
    assert "app password, so no details" in page


def test_users_without_a_recovery_code_are_warned(webmail: tuple[Site, Roundcube]) -> None:
    site, roundcube = webmail
    user = site.user(mails=0)
    done = site.lab.mailseal("enroll", user, "--stdin", stdin=PASSWORD.encode() + b"\n")
    assert done.returncode == 0, done.stderr
    page = tab_of(roundcube, user).get("?_task=settings&_action=plugin.mailseal")
    assert "You have no recovery code" in page
    assert user in site.lab.mailseal("status", "--without-recovery", "--names").stdout.decode()
    site.ok("recovery", user=user, password=PASSWORD)
    assert user not in site.lab.mailseal("status", "--without-recovery").stdout.decode()
    page = tab_of(roundcube, user).get("?_task=settings&_action=plugin.mailseal")
    assert "You have no recovery code" not in page


def test_the_password_changes_in_both_places(webmail: tuple[Site, Roundcube]) -> None:
    """The configuration does not name our driver: the plugin calls it before the site's."""
    site, roundcube = webmail
    user = site.user(mails=1)
    site.enroll(user)
    tab = tab_of(roundcube, user)
    assert "confirmation" in roundcube.change(tab, PASSWORD, NEW)
    assert site.state(user, NEW)["enrolled"]
    # Dovecot sees a changed passwd-file after a second.
    wait(lambda: len(site.reads(user, NEW) or ()) == 1, "the new password reads")
    assert site.reads(user) is None


def test_without_the_agent_the_tab_says_so(
    webmail: tuple[Site, Roundcube],
) -> None:
    site, roundcube = webmail
    user = site.user(mails=0)
    tab = tab_of(roundcube, user)
    site.lab.stop_agent()
    try:
        page = tab.get("?_task=settings&_action=plugin.mailseal")
        assert "cannot be shown at the moment" in page
    finally:
        site.lab.start_agent()
