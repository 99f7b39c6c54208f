# SPDX-License-Identifier: MIT
"""docs/install.md on running servers: each step can be undone, and nothing is left."""

from __future__ import annotations

from tests.docker.page import commands
from tests.docker.site import MAIL, Site, password_of
from tests.docker.test_mail import a_mail, deliver, fresh_word, with_word


def test_undo_and_install_again(site: Site) -> None:
    """The host is as before mailseal, except for the keyrings; then mailseal is installed again."""
    before = fresh_word()
    deliver(site, "alice", a_mail(before))
    site.run(commands("do", site.version, ["postfix"]))  # a second time
    site.run(commands("undo", site.version))
    try:
        word = assert_as_before(site)
    finally:
        site.install()
    after = fresh_word()
    deliver(site, "alice", a_mail(after))
    with site.login("alice") as imap:
        bodies = imap.bodies()
    for each in (before, word, after):
        with_word(bodies, each)
    assert site.files_with(before, MAIL) == []
    assert site.files_with(word, MAIL) != []


def assert_as_before(site: Site) -> str:
    """Files and settings are as before, and mail is stored as before.  Returns a word in it."""
    files, settings = site.look()
    files_before, settings_before = site.before
    # The agent's user is kept, because it owns the keyrings; sysusers only adds users.
    assert files - files_before <= {
        "/etc/group-",
        "/etc/gshadow-",
        "/etc/passwd-",
        "/etc/shadow-",
        "/etc/.pwd.lock",
    }
    assert files_before <= files
    assert settings == settings_before
    assert site.run("ls /var/lib/mailseal/keys") != ""
    word = fresh_word()
    deliver(site, "alice", a_mail(word))
    assert word.encode() in site.read(site.stored("alice")[-1])
    with site.login("alice") as imap:
        assert imap.select() > 0
    return word


def test_destdir_and_prefix(site: Site) -> None:
    """For packagers: all files are below DESTDIR, and no file contains its path."""
    site.run("make install DESTDIR=/tmp/pack PREFIX=/usr MAIL_GROUP=mail")
    files = site.run("cd /tmp/pack && find . -type f -o -type l").split()
    assert "./usr/lib/mailseal/hooks/mailseal-agent" in files
    assert "./usr/lib/systemd/system/mailseal-lmtp.service" in files
    assert all(name.startswith("./usr/") for name in files)
    assert site.run("grep -rl /tmp/pack /tmp/pack || true") == ""
    # The files have the paths of this installation; the pages have /usr/local in examples.
    wrong = "/usr/local|@[A-Z]+@"
    fitted = "/tmp/pack/usr/share /tmp/pack/usr/lib/*.d /tmp/pack/usr/lib/systemd"
    assert site.run(f"grep -rlE '{wrong}' {fitted} --exclude-dir=docs || true") == ""
    assert "0770 root mail" in site.run("cat /tmp/pack/usr/lib/tmpfiles.d/mailseal.conf")
    site.run("systemd-analyze verify /usr/local/lib/systemd/system/mailseal-*.service")
    site.run("make uninstall DESTDIR=/tmp/pack PREFIX=/usr")
    assert site.run("find /tmp/pack -type f -o -type l") == ""


def test_agent_keeps_a_login_session(site: Site) -> None:
    """The second login needs no Argon2id: the unit's restrictions do not prevent this."""
    for _ in range(2):
        with site.login("alice", password_of("alice")) as imap:
            imap.select()
    unlocks = [line for line in site.log().splitlines() if "unlock: user=<alice" in line]
    assert "session=cached" in unlocks[-1]
