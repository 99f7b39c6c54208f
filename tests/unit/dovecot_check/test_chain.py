# SPDX-License-Identifier: MIT
"""What check-config says about passdbs, userdbs and user names."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

import pytest

from mailseal import config as configuration
from mailseal.admin import dovecot_check
from mailseal.admin.finding import ERROR, WARNING
from mailseal.doveconf import Doveconf, DoveconfError, parse
from tests.unit.dovecot_check.settings import (
    BASE,
    OUR_USERDB,
    SNIPPETS,
    VERSION,
    Check,
    chain,
    helper,
    only_23,
    passwd_file,
    snippet,
)

# The site's own blocks; in 2.3, most of mailseal's files contain them.
SITE = {
    "2.3": {
        "auth-behind": "passdb {\n  driver = sql\n  args = /s\n  result_success = continue-ok\n}\n"
        "userdb {\n  driver = sql\n  args = /s\n  result_success = continue-ok\n}\n",
    },
    "2.4": {
        "auth-behind": "passdb users {\n  driver = passwd-file\n  passwd_file_path = /etc/u\n"
        "  result_success = continue-ok\n}\nuserdb users {\n  driver = passwd-file\n"
        "  passwd_file_path = /etc/u\n  result_success = continue-ok\n}\n",
        "auth-behind-passwd-file": "passdb passwd-file {\n  passwd_file_path = /etc/u\n}\n"
        "userdb passwd-file {\n  passwd_file_path = /etc/u\n}\n",
        "auth-behind-sql": "sql_driver = sqlite\nsqlite_path = /x\npassdb sql {\n  query = a\n}\n"
        "userdb sql {\n  query = b\n}\n",
        "auth-behind-sql-prefetch": "sql_driver = sqlite\nsqlite_path = /x\n"
        "passdb sql {\n  query = a\n}\nuserdb prefetch {\n}\nuserdb sql {\n  query = b\n}\n",
        "auth-behind-ldap": "ldap_uris = ldap://x\nldap_base = dc=x\npassdb ldap {\n  bind = yes\n"
        "}\nuserdb ldap {\n}\n",
        "auth-behind-pam": "passdb pam {\n}\nuserdb passwd {\n}\n",
    },
}[VERSION]


def test_no_findings(check: Check) -> None:
    assert check() == []


@pytest.mark.parametrize("path", sorted(glob.glob(f"{SNIPPETS}/auth-*.conf")), ids=os.path.basename)
def test_the_shipped_snippets_are_in_order(check: Check, path: str) -> None:
    name = os.path.basename(path).removesuffix(".conf")
    assert set(SITE) <= {found.stem for found in SNIPPETS.glob("*.conf")}
    if name == "auth-master-user":
        assert check(snippet(name)) == []
    else:
        assert check(snippet("lmtp-relay"), auth=SITE.get(name, "") + snippet(name)) == []


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    """An error if Dovecot would not start: docs/install.md restarts it after warnings."""
    wrong = tmp_path / "dovecot.conf"
    wrong.write_text(f"{BASE}!include {tmp_path}/nowhere/mailseal.conf\n")
    for command, level, reason in (
        (["/nonexistent/doveconf"], WARNING, "not installed"),
        (["doveconf", "-c", str(tmp_path / "none")], ERROR, "none"),
        (["doveconf", "-c", str(wrong)], ERROR, "No matches"),
    ):
        (found,) = dovecot_check.findings(configuration.Config(), Doveconf(command))
        assert found.level == level and reason in found.text
        elsewhere = configuration.parse(
            "delivery: {userdb: template}\ndovecot: {lmtp_socket: imap.example.org:24}"
        )
        assert list(dovecot_check.findings(elsewhere, Doveconf(command))) == []


def test_settings_as_doveconf_prints_them(tmp_path: Path) -> None:
    path = tmp_path / "dovecot.conf"
    path.write_text(f'{BASE}login_greeting = "a \\"b\\" c"\n{chain()}')
    root = Doveconf(["doveconf", "-c", str(path)]).settings()
    assert [block.driver for block in root.all("passdb")] == ["passwd-file", "lua"]
    assert [block.driver for block in root.all("userdb")] == ["passwd-file", "lua"]
    assert root.get("login_greeting") == 'a "b" c'
    assert root.get("ssl") == "no"
    assert parse("}\n# x = y\n").settings == {}
    path.write_text(f"{BASE}no_such_setting = 1\n")
    with pytest.raises(DoveconfError, match="no_such_setting"):
        Doveconf(["doveconf", "-c", str(path)]).settings()


class TestPassdbs:
    def test_none_of_ours(self, check: Check) -> None:
        ((level, text),) = check(auth=passwd_file("passdb") + OUR_USERDB)
        assert level == ERROR and "Dovecot has no passdb for mailseal" in text

    @pytest.mark.parametrize("front", ["result_success = return-ok", "result_failure = continue"])
    def test_another_one_before_mailseal_ends_the_search(self, check: Check, front: str) -> None:
        """For example on an SQL server, where the file was included after the old passdb."""
        ((level, text),) = check(auth=chain(front=front))
        assert level == ERROR
        assert "the passdb passwd-file comes before mailseal's" in text

    def test_the_old_one_is_still_before_mailseals_file(self, check: Check) -> None:
        ((level, text),) = check(auth=passwd_file("passdb") + chain())
        assert level == ERROR and "comes before mailseal's" in text

    def test_the_old_one_after_mailseal_is_harmless(self, check: Check) -> None:
        assert check(passwd_file("passdb")) == []

    def test_master_and_deny_passdbs_are_ignored(self, check: Check) -> None:
        for line in ("  master = yes\n", "  deny = yes\n"):
            assert check(auth=passwd_file("passdb", line) + chain()) == []

    @pytest.mark.parametrize("name", ["result_failure", "result_internalfail"])
    def test_settings_of_mailseals_passdb_after_another_one(self, check: Check, name: str) -> None:
        lines = {"result_failure": "return-fail", "result_internalfail": "return-fail"}
        del lines[name]
        ours = "".join(f"  {key} = {value}\n" for key, value in lines.items())
        ((level, text),) = check(auth=chain(ours=ours))
        assert level == ERROR and f"needs {name} = " in text

    def test_another_one_after_the_only_check(self, check: Check) -> None:
        own = snippet("auth-mailseal-only")
        assert check(auth=own) == []
        ((level, text),) = check(auth=own + passwd_file("passdb"))
        assert level == ERROR and "comes after mailseal's" in text

    @pytest.mark.parametrize("says", ["passdb", "keyring"])
    def test_the_option_that_enroll_goes_by(self, check: Check, says: str) -> None:
        alone = check(auth=snippet("auth-mailseal-only"), password_check=says)
        behind = check(password_check=says)
        assert (len(alone), len(behind)) == ((1, 0) if says == "passdb" else (0, 1))
        assert all("login.password_check" in text for _, text in alone + behind)

    @only_23
    def test_checkpassword_without_another_passdb(self, check: Check) -> None:
        ((level, text),) = check(auth=helper() + OUR_USERDB)
        assert level == ERROR and "no passdb comes before it" in text

    @only_23
    def test_checkpassword_needs_an_accepted_password(self, check: Check) -> None:
        front = passwd_file("passdb", "  result_success = continue-ok\n")
        assert check(auth=front + helper() + OUR_USERDB) == []
        ((level, text),) = check(auth=front + helper(skip="never") + OUR_USERDB)
        assert level == ERROR and "needs skip = unauthenticated" in text

    @only_23
    def test_a_long_password_must_not_skip_checkpassword(self, check: Check) -> None:
        """Dovecot does not run it for more than 512 bytes, which is a failure too."""
        front = passwd_file("passdb", "  result_success = continue-ok\n")
        lacking = helper().replace("  result_failure = return-fail\n", "")
        ((level, text),) = check(auth=front + lacking + OUR_USERDB)
        assert level == ERROR and "needs result_failure = return-fail" in text

    def test_in_one_protocol_only(self, check: Check) -> None:
        if VERSION == "2.4":
            extra = "protocol pop3 {\n  passdb a {\n    result_success = return-ok\n  }\n}\n"
            ((level, text),) = check(extra)
            assert level == ERROR and "comes before" in text


class TestUserdbs:
    def test_none_of_ours(self, check: Check) -> None:
        auth = chain().partition("userdb")[0] + passwd_file("userdb")
        ((level, text),) = check(auth=auth)
        assert level == ERROR and "Dovecot has no userdb for mailseal" in text

    def test_another_one_before_mailseal_ends_the_search(self, check: Check) -> None:
        ((level, text),) = check(auth=passwd_file("userdb") + chain())
        assert level == ERROR and "the userdb passwd-file comes before mailseal's" in text

    def test_a_userdb_after_mailseals(self, check: Check) -> None:
        """It could change the user name after mailseal was asked."""
        ((level, text),) = check(auth=chain() + passwd_file("userdb"))
        assert level == ERROR and "the userdb passwd-file comes after mailseal's" in text

    def test_mailseals_userdb_must_not_be_skipped(self, check: Check) -> None:
        ((level, text),) = check(auth=chain(userdb="  skip = notfound\n"))
        assert level == ERROR and "result_internalfail = return-fail" in text


@pytest.mark.parametrize(
    ("value", "fits"),
    [("%n", False), ("%u", False), ("%Ln", True), ("%Lu", True), ("%{L:user}", True)]
    if VERSION == "2.3"
    else [
        ("%{user}", False),
        ("%{user | username}", False),
        ("%{user | username | lower}", True),
        ("%{user | lower}", True),
    ],
)
def test_user_names_are_lower_case(check: Check, value: str, fits: bool) -> None:
    found = check(f"auth_username_format = {value}\n")
    assert [level for level, _ in found] == ([] if fits else [ERROR])
    assert fits or f'auth_username_format is "{value}"' in found[0][1]


@only_23
def test_auth_debug_and_the_helper(check: Check) -> None:
    auth = passwd_file("passdb", "  result_success = continue-ok\n") + helper() + OUR_USERDB
    ((level, text),) = check("auth_debug = yes\n", auth=auth)
    assert level == WARNING and text.startswith("auth_debug is on")
    assert check("auth_debug = yes\n") == []


@pytest.mark.skipif(VERSION != "2.3", reason="Dovecot 2.4 has no checkpassword driver")
@pytest.mark.parametrize("name", ["behind-passwd-file", "mailseal-only"])
def test_a_copy_of_an_older_checkpassword_file(check: Check, name: str) -> None:
    text = snippet(f"auth-{name}-checkpassword").replace("uid=vmail gid=vmail ", "")
    assert check(auth=text) == []
    for word in (r" --mail=\S*", r" --undoing=\S*", r" --key=\S*"):
        ((level, found),) = check(auth=re.sub(word, "", text))
        assert level == ERROR and f"have no {word[1:-3]}" in found, found
