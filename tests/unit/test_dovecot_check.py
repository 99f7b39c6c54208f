# SPDX-License-Identifier: MIT
"""The findings of check-config about Dovecot's configuration, read with the installed doveconf."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mailseal import config as configuration
from mailseal.admin import dovecot_check
from mailseal.admin.finding import ERROR, WARNING
from mailseal.doveconf import Doveconf, DoveconfError, parse
from tests.lab.dovecot import installed_version

VERSION = installed_version()[:3]
ROOT = Path(__file__).parents[2]
SNIPPETS = ROOT / "dovecot-conf" / VERSION

only_23 = pytest.mark.skipif(VERSION != "2.3", reason="in Dovecot 2.3's language")
only_24 = pytest.mark.skipif(VERSION != "2.4", reason="in Dovecot 2.4's language")

BASE = {
    "2.3": "protocols = imap pop3 lmtp\nssl = no\n"
    "mail_location = maildir:~/Maildir:INDEXCACHE=/run/mailseal/cache/%u\n"
    "namespace inbox {\n  inbox = yes\n}\n",
    "2.4": "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"
    "protocols = imap pop3 lmtp\nssl = no\nmail_driver = maildir\nmail_path = ~/Maildir\n"
    "namespace inbox {\n  inbox = yes\n}\n",
}[VERSION]

# The site's own blocks; in 2.3, mailseal's files contain them.
SITE = {
    "2.3": {},
    "2.4": {
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

Check = Callable[..., list[tuple[str, str]]]


def snippet(name: str) -> str:
    return (SNIPPETS / f"{name}.conf").read_text()


def chain(front: str = "result_success = continue-ok", ours: str = "", userdb: str = "") -> str:
    """A passwd-file before mailseal, as in mailseal's files, with changed or added lines."""
    ours = ours or (
        "  skip = unauthenticated\n  result_failure = return-fail\n"
        "  result_internalfail = return-fail\n"
    )
    userdb = userdb or "  skip = notfound\n  result_internalfail = return-fail\n"
    if VERSION == "2.3":
        lua = "  driver = lua\n  args = file=/usr/lib/mailseal/dovecot-conf/2.4/mailseal.lua\n"
        file = "  driver = passwd-file\n  args = /etc/u\n"
        names = [""] * 4
    else:
        lua = "  driver = lua\n  lua_file = /usr/lib/mailseal/dovecot-conf/2.4/mailseal.lua\n"
        file = "  driver = passwd-file\n  passwd_file_path = /etc/u\n"
        names = [" a", " mailseal", " mailseal", " b"]
    return (
        f"passdb{names[0]} {{\n{file}  {front}\n}}\npassdb{names[1]} {{\n{lua}{ours}}}\n"
        f"userdb{names[3]} {{\n{file}  result_success = continue-ok\n}}\n"
        f"userdb{names[2]} {{\n{lua}{userdb}}}\n"
    )


def passwd_file(kind: str, more: str = "") -> str:
    """Another block of a kind, without any relation to mailseal."""
    name, path = ("", "args") if VERSION == "2.3" else (" more", "passwd_file_path")
    return f"{kind}{name} {{\n  driver = passwd-file\n  {path} = /etc/v\n{more}}}\n"


def helper(skip: str = "unauthenticated") -> str:
    """The checkpassword passdb of 2.3."""
    return (
        "passdb {\n  driver = checkpassword\n  args = /usr/lib/mailseal/hooks/x --behind-passdb\n"
        f"  skip = {skip}\n  result_failure = return-fail\n"
        "  result_internalfail = return-fail\n}\n"
    )


OUR_USERDB = "userdb" + chain().partition("userdb")[2]


@pytest.fixture(autouse=True)
def _a_dovecot_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the Dovecot that runs on this machine from delivery."""
    monkeypatch.setattr("mailseal.delivery.dovecot.settings.known", lambda config: {})


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """The findings for Dovecot settings and options of delivery.

    Without `auth`, with a correct chain of passdbs and userdbs.
    """

    def findings(
        *parts: str, auth: str | None = None, password_check: str = "", **delivery: str
    ) -> list[tuple[str, str]]:
        path = tmp_path / "dovecot.conf"
        path.write_text("".join([BASE, snippet("mailseal"), auth or chain(), *parts]))
        text = "\n".join(f"  {name}: {value}" for name, value in delivery.items())
        login = f"login: {{password_check: {password_check or 'passdb'}}}\n"
        config = configuration.parse(login + (f"delivery:\n{text}\n" if text else ""))
        found = dovecot_check.findings(config, Doveconf(["doveconf", "-c", str(path)]))
        return [
            (finding.level, finding.text)
            for finding in found
            if password_check or "login.password_check" not in finding.text
        ]

    return findings


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


def test_without_doveconf_it_says_so(tmp_path: Path) -> None:
    for command, reason in (
        (["/nonexistent/doveconf"], "not installed"),
        (["doveconf", "-c", str(tmp_path / "none")], "none"),
    ):
        (found,) = dovecot_check.findings(configuration.Config(), Doveconf(command))
        assert found.level == WARNING and reason in found.text
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


@pytest.mark.parametrize("protocol", ["imap", "pop3", "lmtp", "lda", "doveadm"])
def test_mail_crypt_in_each_protocol(check: Check, protocol: str) -> None:
    off = "mail_plugins = acl" if VERSION == "2.3" else "mail_plugins {\n mail_crypt = no\n }"
    ((level, text),) = check(f"protocol {protocol} {{\n  {off}\n}}\n")
    assert level == ERROR
    assert text.startswith(f"Dovecot does not load mail_crypt in protocol {protocol}: ")


def test_protocols_that_do_not_run_are_ignored(check: Check) -> None:
    off = "mail_plugins = quota" if VERSION == "2.3" else "mail_plugins {\n mail_crypt = no\n }"
    assert check(f"protocols = imap lmtp\nprotocol pop3 {{\n  {off}\n}}\n") == []


def sieve_in(*protocols: str) -> str:
    plugins = {
        "2.3": "mail_plugins = $mail_plugins mail_crypt sieve",
        "2.4": "mail_plugins {\n sieve = yes\n }",
    }[VERSION]
    return "".join(f"protocol {protocol} {{\n  {plugins}\n}}\n" for protocol in protocols)


SITE_SCRIPT = {
    "2.3": "plugin {\n  sieve_before2 = /etc/s\n  sieve_global = /g\n}\n",
    "2.4": "sieve_script site {\n  path = /etc/s\n  type = after\n}\n",
}[VERSION]
NO_SITE_SCRIPT = {
    "2.3": "plugin {\n  sieve = file:~/sieve;active=~/.dovecot.sieve\n  sieve_before = \n}\n",
    "2.4": "sieve_script ham {\n  cause = copy\n  path = /etc/s\n  type = before\n}\n"
    "sieve_script own {\n  path = ~/sieve\n  type = personal\n}\n",
}[VERSION]


def test_quota_that_is_not_checked(check: Check) -> None:
    line = "mail_plugins = $mail_plugins quota"
    plugin = line if VERSION == "2.3" else "mail_plugins {\n quota = yes\n }"
    quota = f"protocol lmtp {{\n  {plugin}\n}}\n"
    ((level, text),) = check(quota)
    assert level == WARNING and "dovecot.quota_socket is not set" in text
    assert check(quota, sieve_in("lmtp"), sieve="always") == []


class TestSieve:
    def test_scripts_of_the_site(self, check: Check) -> None:
        ((level, text),) = check(sieve_in("lmtp"), SITE_SCRIPT)
        name = {"2.3": "(sieve_before2)", "2.4": "(sieve_script site)"}[VERSION]
        assert level == WARNING and name in text and "`delivery.sieve: always`" in text
        assert check(sieve_in("lmtp"), NO_SITE_SCRIPT) == []
        assert check(SITE_SCRIPT) == []

    def test_lda_alone(self, check: Check) -> None:
        ((level, text),) = check(sieve_in("lda"))
        assert level == WARNING and "sieve in protocol lda only" in text
        assert check(sieve_in("lda", "lmtp")) == []

    def test_sieve_always_needs_the_plugin(self, check: Check) -> None:
        assert check(sieve_in("lmtp"), SITE_SCRIPT, sieve="always") == []
        ((level, text),) = check(SITE_SCRIPT, sieve="always")
        assert level == ERROR and text.startswith("delivery.sieve is always, but Dovecot does not")


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ("mail_location = maildir:~/Maildir:INDEXCACHE=/run/cache/%u", True),
        ("mail_location = maildir:%h/Maildir:INDEXCACHE=/c/%u", True),
        ("mail_location = mbox:~/mail:INBOX=/var/mail/%u:INDEXCACHE=/c/%u", False),
        ("mail_location = mdbox:~/mdbox:INDEXCACHE=/c/%u", False),
        ("mail_location = sdbox:~/sdbox:INDEXCACHE=/c/%u", False),
        ("mail_location = maildir:~/Maildir:INBOX=~/In:INDEXCACHE=/c/%u", False),
        ("mail_location = maildir:~/Maildir:LAYOUT=fs:INDEXCACHE=/c/%u", False),
        ("mail_location = maildir:/m/%1n/%n:INDEXCACHE=/c/%u", True),  # only Dovecot can expand it
        ("namespace inbox {\n  location = maildir:~/N\n}", False),
        ("namespace old {\n  location = maildir:~/N\n  prefix = old.\n}", True),
    ]
    if VERSION == "2.3"
    else [
        ("mail_path = %{home}/Maildir", True),
        ("mailbox_list_layout = fs", True),
        ("mailbox_list_layout = index", False),
        ("mail_inbox_path = /var/mail/%{user}", False),
        ("mail_inbox_path = ~/Maildir", True),
        ("mail_driver = mbox\nmail_path = ~/mail", False),
        ("mail_driver = mdbox\nmail_path = ~/mdbox", False),
        ("mail_driver = sdbox\nmail_path = ~/sdbox", False),
        ("namespace inbox {\n  mail_path = ~/N\n}", False),
    ],
)
def test_the_mail_location(check: Check, settings: str, same: bool) -> None:
    found = check(f"{settings}\n")
    located = [level for level, text in found if "delivery.maildir ~/Maildir" in text]
    assert located == ([] if same else [WARNING])
    # mail_crypt does not seal mbox, which is another error.
    others = [level for level, text in found if "delivery.maildir ~/Maildir" not in text]
    assert others == ([ERROR] if "mbox" in settings.partition("\n")[0] else [])


@pytest.mark.skipif(VERSION != "2.3", reason="Dovecot 2.4 has no checkpassword driver")
@pytest.mark.parametrize("name", ["behind-passwd-file", "mailseal-only"])
def test_a_copy_of_an_older_checkpassword_file(check: Check, name: str) -> None:
    text = snippet(f"auth-{name}-checkpassword").replace("uid=vmail gid=vmail ", "")
    assert check(auth=text) == []
    for word in (r" --mail=\S*", r" --undoing=\S*", r" --key=\S*"):
        ((level, found),) = check(auth=re.sub(word, "", text))
        assert level == ERROR and f"have no {word[1:-3]}" in found, found


def test_a_namespace_in_a_format_that_is_not_sealed(check: Check) -> None:
    place = {
        "2.3": "location = mbox:~/archive",
        "2.4": "mail_driver = mbox\n  mail_path = ~/archive",
    }[VERSION]
    text = f"namespace archive {{\n  separator = /\n  prefix = Archive/\n  {place}\n}}\n"
    separator = "namespace inbox {\n  separator = /\n}\n"
    (found,) = check(separator + text)
    assert found[0] == ERROR and "'Archive/'" in found[1] and "cannot seal" in found[1]
    assert check(separator + text.replace("mbox", "maildir")) == []


def test_attachments_in_files_of_their_own(check: Check) -> None:
    name = {"2.3": "mail_attachment_dir", "2.4": "mail_ext_attachment_path"}[VERSION]
    apart = f"{name} = ~/apart\n"
    assert check(apart) == []  # a Maildir has none
    mdbox = {
        "2.3": "mail_location = mdbox:~/mdbox:INDEXCACHE=/c/%u\n",
        "2.4": "mail_driver = mdbox\nmail_path = ~/mdbox\n",
    }[VERSION]
    found = [text for level, text in check(mdbox + apart) if level == ERROR]
    assert len(found) == 1 and f"remove {name}" in found[0]


@only_24
@pytest.mark.parametrize("block", ["", "namespace inbox {\n  "])
def test_an_inbox_path_that_is_set_but_empty(check: Check, block: str) -> None:
    ((level, text),) = check(f"{block}mail_inbox_path =\n{'}' if block else ''}\n")
    assert level == ERROR and "INBOX in /home/user/Maildir/.INBOX" in text
    assert check(f"{block}mail_inbox_path = ~/Maildir\n{'}' if block else ''}\n") == []


def test_the_same_location_is_accepted(check: Check) -> None:
    settings = {
        "2.3": "mail_location = maildir:/m/%d/%n:INDEXCACHE=/c/%u\n",
        "2.4": "mail_path = /m/%{user | domain}/%{user | username}\n",
    }[VERSION]
    assert len(check(settings)) == 1
    assert check(settings, maildir="/m/%d/%n") == []
