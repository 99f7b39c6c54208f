# SPDX-License-Identifier: MIT
"""Nobody can save mail in folders of others, in clear or sealed to a key of somebody else."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mailseal import config as configuration
from mailseal.admin.for_agent import Outside
from mailseal.errors import TemporaryError
from tests.lab import ALICE, BOB, Imap, Lab, Refused
from tests.lab.dovecot import installed_version, series, snippet
from tests.lab.place import MAIL_UID
from tests.lab.search import search_folder
from tests.lab.smtp import send_lmtp

PLAIN = "plain@example.org"
NEW = "new@example.org"
MAIL = b"Subject: tangerine\r\nFrom: eve@example.net\r\n\r\nin the cellar\r\n"
ALL = b"lrwstipekxa"
SHARED = b'"shared/alice@example.org/Work"'
PUBLIC = b'"Public/Board"'

# Typical settings: users can share folders, and there is a public folder.
_SITE = {}
_SITE["2.3"] = """
mail_plugins = $mail_plugins acl
protocol imap {
  mail_plugins = $mail_plugins acl imap_acl
}
protocol lmtp {
  mail_plugins = $mail_plugins acl sieve
}
plugin {
  acl = vfile
  acl_shared_dict = file:DIR/shared-mailboxes
}
namespace shared {
  type = shared
  separator = /
  prefix = shared/%%u/
  location = maildir:%%h/Maildir:INDEXPVT=~/shared/%%u:INDEXCACHE=QUICK/cache/%u/shared/%%u
  subscriptions = no
  list = children
}
namespace public {
  type = public
  separator = /
  prefix = Public/
  location = maildir:DIR/public:INDEXPVT=~/public:INDEXCACHE=QUICK/cache/%u/public
  subscriptions = no
}
namespace inbox {
  separator = /
}
"""
_SITE["2.4"] = """
mail_plugins {
  acl = yes
}
protocol imap {
  mail_plugins {
    imap_acl = yes
  }
}
protocol lmtp {
  mail_plugins {
    sieve = yes
  }
}
acl_driver = vfile
acl_sharing_map {
  dict file {
    path = DIR/shared-mailboxes
  }
}
namespace shared {
  type = shared
  separator = /
  prefix = shared/$user/
  mail_driver = maildir
  mail_path = %{owner_home}/Maildir
  mail_index_private_path = ~/shared/%{owner_user}
  mail_cache_path = QUICK/cache/%{user}/shared/%{owner_user}
  subscriptions = no
  list = children
}
namespace public {
  type = public
  separator = /
  prefix = Public/
  mail_driver = maildir
  mail_path = DIR/public
  mail_index_private_path = ~/public
  mail_cache_path = QUICK/cache/%{user}/public
  subscriptions = no
}
namespace inbox {
  separator = /
}
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Lab]:
    """Alice and bob are enrolled, plain is not; alice has given both all rights in Work."""
    made = Lab(
        dict.fromkeys((ALICE, BOB), "password"),
        auth="behind-passwd-file",
        plain_users={PLAIN: "password", NEW: "password"},
    )
    folder = made.place.path("shared")
    os.makedirs(f"{folder}/public/.Board/cur")
    rules = f"{folder}/mailseal-shared.acl"
    with open(rules, "w", encoding="ascii") as stream:
        stream.write("shared/* -anyone ip\nPublic/* -anyone ip\n")
    with open(f"{folder}/public/.Board/dovecot-acl", "w", encoding="ascii") as stream:
        stream.write("anyone lrwstipekx\n")
    for root, _, names in os.walk(folder):
        for path in (root, *(os.path.join(root, name) for name in names)):
            os.chown(path, MAIL_UID, MAIL_UID)
    version = installed_version()
    text = _SITE[series(version)].replace("DIR", folder).replace("QUICK", made.place.quick)
    places = {**made.dovecot.wanted.places, "/etc/dovecot/mailseal-shared.acl": rules}
    made.dovecot.write_config(text + snippet(version, "shared-folders", places))
    with made:
        with made.login(ALICE) as imap:
            imap.command(b"CREATE Work")
            imap.append("Work", MAIL)
            for user in (BOB, PLAIN):
                imap.command(b"SETACL Work %s %s" % (user.encode(), ALL))
        yield made


def may_read(imap: Imap, folder: bytes) -> int:
    """The number of mails that the user sees in the folder, which shows that it is shared."""
    return imap.select(folder.decode().strip('"'))


@pytest.mark.parametrize("user", [BOB, PLAIN])
@pytest.mark.parametrize("folder", [SHARED, PUBLIC])
def test_saving_is_refused(site: Lab, user: str, folder: bytes) -> None:
    with Imap(site.imap, user, "password") as imap:
        before = may_read(imap, folder)
        name = folder.decode().strip('"')
        with pytest.raises(Refused, match=r"NOPERM.*Permission denied"):
            imap.append(name, MAIL)
        imap.append("INBOX", MAIL)
        last = imap.select("INBOX")
        for verb in (b"COPY", b"MOVE"):
            with pytest.raises(Refused, match=r"NOPERM.*Permission denied"):
                imap.command(verb + b" %d %s" % (last, folder))
        assert may_read(imap, folder) == before
        # Only saving is forbidden: the owner's ACL still applies to flags.
        if before:
            imap.command(b"STORE 1 +FLAGS (\\Flagged)")


@pytest.mark.parametrize("user", [BOB, PLAIN])
def test_a_folder_is_not_moved_into_it(site: Lab, user: str) -> None:
    """With all its mails: sealed to another key, or in clear."""
    with Imap(site.imap, user, "password") as imap:
        imap.command(b"CREATE Mine")
        imap.append("Mine", MAIL)
        for target in (b'"shared/alice@example.org/Work/Mine"', b'"Public/Mine"'):
            with pytest.raises(Refused, match="CANNOT"):
                imap.command(b"RENAME Mine " + target)
    assert search_folder(site.home(ALICE), ["tangerine"]) == []


def test_the_owner_saves_and_reads(site: Lab) -> None:
    with site.login(ALICE) as imap:
        imap.append("Work", MAIL)
        bodies = imap.bodies("Work")
        assert len(bodies) >= 2
        assert set(bodies) == {MAIL}
    assert search_folder(site.home(ALICE), ["tangerine"]) == []


@pytest.mark.parametrize("user", [BOB, PLAIN])
def test_a_sieve_script_cannot_save_in_it(site: Lab, user: str) -> None:
    """The mail is not lost: it is in the user's own INBOX."""
    script = os.path.join(site.home(user), ".dovecot.sieve")
    os.makedirs(site.home(user), exist_ok=True)
    with open(script, "w", encoding="ascii") as stream:
        stream.write(f'require "fileinto"; fileinto {SHARED.decode()};\n')
    os.chown(site.home(user), MAIL_UID, MAIL_UID)
    os.chown(script, MAIL_UID, MAIL_UID)
    with site.login(ALICE) as imap:
        before = imap.select("Work")
    with Imap(site.imap, user, "password") as imap:
        own = imap.select("INBOX")
    assert send_lmtp(site.lmtp, "eve@example.net", [user], MAIL)[0][0] == 250
    with site.login(ALICE) as imap:
        assert imap.select("Work") == before
        imap.bodies("Work")
    with Imap(site.imap, user, "password") as imap:
        assert imap.select("INBOX") == own + 1


def test_nobody_is_enrolled_while_others_may_save_in_the_folders(site: Lab) -> None:
    rules = site.place.path("shared", "mailseal-shared.acl")
    config = configuration.load(site.config_path)
    with open(rules, encoding="ascii") as stream:
        right = stream.read()
    for wrong, why in ((right.partition("\n")[2], b"needs the line `shared/*"), ("", b"needs")):
        with open(rules, "w", encoding="ascii") as stream:
            stream.write(wrong)
        done = site.mailseal("enroll", NEW, "--stdin", stdin=b"password\n")
        assert done.returncode == 75, done
        assert b"nobody can be enrolled" in done.stderr and why in done.stderr
        assert b"hint: change Dovecot's settings, then run `mailseal check-config`" in done.stderr
        with pytest.raises(TemporaryError, match="nobody can be enrolled"):  # by the page
            Outside().require_sealable(config, NEW)
        assert site.mailseal("status", NEW).returncode == 67
    os.unlink(rules)
    done = site.mailseal("enroll", NEW, "--stdin", stdin=b"password\n")
    assert done.returncode == 75 and b"does not exist" in done.stderr
    with open(rules, "w", encoding="ascii") as stream:
        stream.write(right)
    assert site.mailseal("enroll", NEW, "--stdin", stdin=b"password\n").returncode == 0


@pytest.mark.skipif(
    series(installed_version()) == "2.3",
    reason="2.3 takes a missing file for an empty one; `mailseal check-config` reports it",
)
def test_without_the_file_nobody_can_save_in_it(site: Lab) -> None:
    """A missing file gives no permission."""
    rules = site.place.path("shared", "mailseal-shared.acl")
    os.rename(rules, f"{rules}.away")
    try:
        site.dovecot.restart()
        with pytest.raises((Refused, OSError)), Imap(site.imap, PLAIN, "password") as imap:
            imap.append(SHARED.decode().strip('"'), MAIL)
    finally:
        os.rename(f"{rules}.away", rules)
        site.dovecot.restart()
    assert search_folder(site.maildir(ALICE, "Work"), ["tangerine"]) == []
