# SPDX-License-Identifier: MIT
"""`mailseal setup` on running servers of three kinds: users in a passwd-file, in SQL, and accounts.

Each kind: set up, one user enrolled, a mail sealed and read, undone; then all is as before to the
byte.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.docker.conftest import SUITES
from tests.docker.page import commands
from tests.docker.site import CommandFailed, Site, password_of
from tests.docker.test_kinds import arrives, on_disk, sealed_by_the_owner
from tests.docker.test_mail import MAGIC, a_mail, with_word
from tests.lab.imap import Imap

_FILES = (
    "find /etc/dovecot /etc/postfix /etc/mailseal /etc/tmpfiles.d /etc/systemd/system"
    " ! -name '*.db' \\( -type f -o -type l \\) -printf '%p %m %u %g %l\\n' 2>/dev/null | sort;"
    "find /etc/dovecot /etc/postfix /etc/tmpfiles.d -type f ! -name '*.db' -exec sha256sum {} + |"
    " sort -k2; cut -d: -f1 /etc/passwd;"
)
_SETTINGS = "postconf -n; postconf -M; postconf -P; doveconf -n 2>/dev/null | grep -v '^#'"

_ADD = """#!/bin/sh -e
read -r password
echo "$1:{PLAIN}$password:$(id -u vmail):$(id -g vmail)::/var/mail/vhosts/example.org/new" \\
    >> /etc/dovecot/users
echo "$1 ok" >> /etc/postfix/vmailbox
postmap /etc/postfix/vmailbox
"""
_REMOVE = """#!/bin/sh -e
cd /etc/dovecot && grep -v "^$1:" users > /root/users && cat /root/users > users
cd /etc/postfix && grep -v "^$1 " vmailbox > /root/vmailbox && cat /root/vmailbox > vmailbox
postmap vmailbox
"""
TEST_USER = "--test-user new@example.org --add /root/add --remove /root/remove"


def look(site: Site) -> str:
    """All files with their hashes, modes and owners, users, and the settings."""
    return site.run(_FILES + _SETTINGS)


def plan(site: Site, arguments: str = "") -> dict[str, object]:
    """What `mailseal setup --json` prints."""
    printed = site.run(f"mailseal setup --json {arguments} || [ $? -eq 2 ]")
    found: dict[str, object] = json.loads(printed)
    return found


# The host has been a server of other kinds before; see tests/docker/stack.
PASSWD_FILE = """
cd /etc/dovecot/conf.d
cp /usr/local/share/stack/%s.conf 90-site.conf
sed -i 's/^!include auth-/#&/' 10-auth.conf
if dovecot --version | grep -q '^2\\.3'; then
    sed -i 's/^#\\(!include auth-passwdfile\\)/\\1/' 10-auth.conf
fi
postconf -e 'mydestination = localhost' 'virtual_transport = lmtp:unix:private/dovecot-lmtp'
postconf -X mailbox_command
systemctl restart dovecot postfix
"""
NO_OTHER_USERS = """
for user in mailowner alice carol mallory; do
    if id $user >/dev/null 2>&1; then userdel -r $user 2>/dev/null; fi
done
if getent group mailgrp >/dev/null; then groupdel mailgrp; fi
rm -rf /srv/mail /etc/dovecot/users.sqlite
"""


@pytest.fixture(scope="module", params=list(SUITES))
def host(request: pytest.FixtureRequest, hosts: dict[str, Site]) -> Iterator[Site]:
    """A mail server with users in a passwd-file; only mailseal's programs are installed."""
    site = hosts["kinds" + request.param.replace(".", "")]
    site.run("tar -cf /root/before-setup.tar /etc/dovecot /etc/postfix 2>/dev/null")
    site.run("rm -rf /var/lib/mailseal")
    site.run(NO_OTHER_USERS + PASSWD_FILE % SUITES[site.version])
    site.run(commands("do", site.version, ["programs"]))
    site.run("cat > /root/add; chmod 700 /root/add", stdin=_ADD.encode())
    site.run("cat > /root/remove; chmod 700 /root/remove", stdin=_REMOVE.encode())
    yield site
    site.run("mailseal setup --undo --although-enrolled")
    forget(site)
    site.run(commands("undo", site.version, ["programs"]))
    site.run(
        "systemctl stop dovecot postfix; rm -rf /etc/dovecot /etc/postfix\n"
        "tar -C / -xf /root/before-setup.tar; systemctl start dovecot postfix"
    )


def forget(site: Site) -> None:
    """The keys and the sealed mail: the next test begins anew."""
    site.run("rm -rf /var/lib/mailseal /var/mail/vhosts/example.org/*/Maildir")


@pytest.fixture
def before(host: Site) -> Iterator[str]:
    """How it was; after the test it must be so again."""
    found = look(host)
    yield found
    host.run("mailseal setup --undo --although-enrolled")
    assert look(host) == found
    for unit in ("mailseal-agent", "mailseal-lmtp"):
        assert host.run(f"systemctl is-active {unit} || true").strip() == "inactive"
    assert host.run("ls /var/lib/mailseal/setup").split() in ([], ["lock"])
    forget(host)


def in_clear(site: Site, address: str, folder: str) -> None:
    word = arrives(site, address)
    assert on_disk(site, word, folder)


def test_what_it_does_not_understand(host: Site) -> None:
    """It says what, and does nothing."""
    before = look(host)
    host.run("cp -p /etc/postfix/main.cf /etc/postfix/master.cf /root")
    program = "other unix - n n - - pipe user=nobody argv=/usr/bin/true"
    host.run(f"postconf -M 'other/unix = {program}'")
    for setting, said in (
        ("virtual_transport = other:", "a program that is not Dovecot's LDA"),
        ("virtual_transport = smtp:[192.0.2.1]", "not a Dovecot on this machine"),
        ("transport_maps = inline:{example.org=lmtp:unix:private/x}", "transport_maps delivers"),
        ("multi_instance_directories = /etc/postfix-in", "several instances of Postfix"),
    ):
        host.run(f"postconf -e '{setting}'")
        found = plan(host, "--apply")
        assert found["state"] == "refused" and found["files"] == [], setting
        assert said in str(found["cannot"]), found["cannot"]
        host.run("cp -p /root/main.cf /etc/postfix/main.cf")
    host.run("rm /etc/postfix/master.cf; ln -s /root/master.cf /etc/postfix/master.cf")
    assert "is a symbolic link" in str(plan(host)["cannot"])
    host.run("mv /root/master.cf /etc/postfix/master.cf")
    assert look(host) == before


def test_killed_half_way(host: Site, before: str) -> None:
    """The next run says so and changes nothing; undo changes everything back."""
    process = subprocess.Popen(
        ["docker", "exec", host.container, "mailseal", "setup", "--apply"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("starts mailseal-agent"):
            break
    host.run("kill -9 $(pgrep -f '[m]ailseal setup --apply')")
    process.communicate()
    half = look(host)
    assert half != before
    for command in ("mailseal setup", "mailseal setup --apply"):
        with pytest.raises(CommandFailed, match=r"was interrupted(.|\n)*setup --undo"):
            host.run(command)
    assert look(host) == half


def test_a_step_that_fails_undoes_everything(host: Site, before: str) -> None:
    host.run("systemctl mask --runtime mailseal-lmtp")
    try:
        with pytest.raises(CommandFailed, match="everything is undone"):
            host.run("mailseal setup --apply")
    finally:
        host.run("systemctl unmask --runtime mailseal-lmtp")
    assert look(host) == before


def test_passwd_file(host: Site, before: str) -> None:
    found = plan(host)
    assert found["state"] == "planned" and found["cannot"] == []
    assert look(host) == before
    host.run(f"mailseal setup --apply {TEST_USER}")
    after = look(host)
    assert "nothing was changed" in host.run("mailseal setup --apply")
    assert look(host) == after
    host.enroll("alice")
    word = arrives(host, "alice@example.org")
    (path,) = host.stored("alice")
    assert host.read(path).startswith(MAGIC)
    with host.login("alice") as imap:
        with_word(imap.bodies(), word)
        imap.append("Sent", a_mail(word))
    assert not on_disk(host, word, "/var/mail")
    in_clear(host, "carol@example.org", "/var/mail/vhosts/example.org/carol")
    with pytest.raises(CommandFailed, match="1 enrolled user: "):
        host.run("mailseal setup --undo")
    # What somebody adds elsewhere in a file is kept.
    host.run("sed -i '1i# ours' /etc/postfix/main.cf")
    assert "your other changes are kept" in host.run("mailseal setup --undo --although-enrolled")
    host.run("sed -i '1d' /etc/postfix/main.cf")


def test_sql(host: Site) -> None:
    """In SQLite; the owner of the mail, the paths and the sockets have other names."""
    host.run("bash -eu /usr/local/share/stack/sql")
    before = look(host)
    assert "--user ADDRESS" in str(plan(host)["cannot"])  # the database lists no users
    host.run("mailseal setup --apply --user alice@example.org")
    sealed_by_the_owner(host)
    in_clear(host, "carol@example.org", "/srv/mail/example.org/carol/box")
    host.run("mailseal setup --undo --although-enrolled")
    assert look(host) == before
    forget(host)


def test_system_users(host: Site) -> None:
    """PAM and /etc/passwd; Postfix's local(8) starts dovecot-lda."""
    host.run(f"bash -eu /usr/local/share/stack/system-users {SUITES[host.version]}")
    before = look(host)
    host.run("mailseal setup --apply --user alice")
    host.run("mailseal enroll alice --stdin", stdin=f"{password_of('alice')}\n".encode())
    word = arrives(host, "alice@mail.example.org")
    assert not on_disk(host, word, "/home /var/mail")
    newest = host.run("ls -t /home/alice/Maildir/*/*,S=*").splitlines()[0]
    assert host.read(newest).startswith(MAGIC)
    with Imap(host.imap, "alice", password_of("alice")) as imap:
        with_word(imap.bodies(), word)
    in_clear(host, "carol@mail.example.org", "/home/carol/Maildir")
    assert host.run("id -un mailseal-lmtp").strip() == "mailseal-lmtp"
    host.run("mailseal setup --undo --although-enrolled")
    assert look(host) == before
    forget(host)
