# SPDX-License-Identifier: MIT
"""A site that seals the mail of all users with one key: `site_key` of mailseal.lua.

Users who are not enrolled keep the site's key, and enrolled users have their own.  Nobody's mail is
stored in clear, and the mail of an enrolled user is never sealed with the site's key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PublicKey
from tests.lab import ALICE, Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.imap import Pop3
from tests.lab.place import let_others_in
from tests.lab.smtp import send_lmtp

SENDER = "eve@example.net"
PLAIN = "plain@example.org"
MAIL = b"Subject: tangerine\r\n\r\nin the cellar\r\n"

# The public key is in no setting: it comes from mailseal's userdb only.
_SETTINGS = {
    "2.3": """
plugin {{
  mail_crypt_global_private_key = <{private}
  mail_crypt_global_private_key2 = <{private}
}}
import_environment = $import_environment MAILSEAL_SITE_KEY={public}
""",
    "2.4": """
crypt_global_private_key site {{
  crypt_private_key_file = {private}
}}
{userdb}
""",
}
_USERDB = """
userdb mailseal {{
  lua_settings {{
    site_key = {public}
  }}
}}
"""


class Key:
    """The key of the site, in two files."""

    def __init__(self, folder: Path) -> None:
        made = ec.generate_private_key(ec.SECP256R1())
        self.private = folder / "private.pem"
        self.public = folder / "public.pem"
        self.private.write_bytes(
            made.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.public.write_bytes(
            made.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self.id = PublicKey.of(made.public_key()).key_id
        let_others_in(folder)

    def settings(self, *, asked: bool = True) -> str:
        """asked: whether mailseal's userdb is among Dovecot's."""
        userdb = _USERDB.format(public=self.public) if asked else ""
        return _SETTINGS[series(installed_version())].format(
            private=self.private, public=self.public, userdb=userdb
        )


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return Key(tmp_path_factory.mktemp("site-key"))


@pytest.fixture(scope="module")
def site(key: Key) -> Iterator[Lab]:
    with Lab(
        auth="behind-passwd-file",
        plain_users={PLAIN: "password"},
        dovecot_extra=key.settings(),
    ) as made:
        yield made


def key_ids(lab: Lab, user: str) -> list[bytes]:
    """The ids of the keys that open the mails in INBOX, oldest first; fails for a mail in clear."""
    found: list[bytes] = []
    for path in lab.stored(user):
        with open(path, "rb") as stream:
            found += dcrypt.inspect(stream.read(4096)).key_ids
    return found


def test_each_user_has_the_right_key(site: Lab, key: Key) -> None:
    for user in (PLAIN, ALICE):
        assert send_lmtp(site.lmtp, SENDER, [user], MAIL)[0][0] == 250
        assert send_lmtp((site.dovecot.lmtp_socket, 0), SENDER, [user], MAIL)[0][0] == 250
        with Imap(site.imap, user, "password") as imap:
            imap.append("INBOX", MAIL)
            assert [body.endswith(MAIL) for body in imap.bodies()] == [True] * 3
        with Pop3(site.pop3, user, "password") as pop:
            assert all(pop.mail(number).endswith(MAIL) for number in (1, 2, 3))
    assert key_ids(site, PLAIN) == [key.id] * 3
    (own,) = set(key_ids(site, ALICE))
    assert own != key.id


def test_who_is_not_enrolled_needs_no_agent(site: Lab, key: Key) -> None:
    before = len(site.stored(PLAIN))
    site.stop_agent()
    try:
        assert send_lmtp(site.lmtp, SENDER, [PLAIN], MAIL)[0][0] == 250
        with Imap(site.imap, PLAIN, "password") as imap:
            assert all(body.endswith(MAIL) for body in imap.bodies())
    finally:
        site.start_agent()
    assert key_ids(site, PLAIN) == [key.id] * (before + 1)


@pytest.mark.parametrize("content", [None, b"", b"no key\n", b"folder"])
def test_without_the_key_mail_waits(site: Lab, key: Key, content: bytes | None) -> None:
    """Nothing is stored in clear, and nobody is told that the user does not exist."""
    before = {user: len(site.stored(user)) for user in (PLAIN, ALICE)}
    away = key.public.with_name("away.pem")
    os.rename(key.public, away)
    try:
        if content == b"folder":
            key.public.mkdir()
        elif content is not None:
            key.public.write_bytes(content)
        code, text = send_lmtp(site.lmtp, SENDER, [PLAIN], MAIL)[0]
        assert code // 100 == 4, text
        code, text = send_lmtp((site.dovecot.lmtp_socket, 0), SENDER, [PLAIN], MAIL)[0]
        assert code // 100 == 4, text
        assert send_lmtp(site.lmtp, SENDER, [ALICE], MAIL)[0][0] == 250
    finally:
        if key.public.is_dir():
            key.public.rmdir()
        os.rename(away, key.public)
    assert len(site.stored(PLAIN)) == before[PLAIN]
    assert len(site.stored(ALICE)) == before[ALICE] + 1
    assert send_lmtp(site.lmtp, SENDER, [PLAIN], MAIL)[0][0] == 250


def test_old_mail_is_read_and_gets_the_key_of_the_user(site: Lab, key: Key) -> None:
    user = "old@example.org"
    site.dovecot.write_users(dict.fromkeys((ALICE, PLAIN, user), "password"))
    assert send_lmtp(site.lmtp, SENDER, [user], MAIL)[0][0] == 250
    assert key_ids(site, user) == [key.id]
    done = site.mailseal("enroll", user, "--stdin", stdin=b"password\n")
    assert done.returncode == 0, done.stderr
    if series(installed_version()) == "2.3":  # the second number of the site's key
        with Imap(site.imap, user, "password") as imap:
            assert [body.endswith(MAIL) for body in imap.bodies()] == [True]
    done = site.mailseal("reseal", user, "--from-key", str(key.private))
    assert done.returncode == 0, done.stderr
    assert key.id not in key_ids(site, user)
    with Imap(site.imap, user, "password") as imap:
        assert [body.endswith(MAIL) for body in imap.bodies()] == [True]


def test_nothing_is_stored_if_the_userdb_was_not_asked(key: Key) -> None:
    with Lab(
        {},
        auth="passwd-file",
        plain_users={ALICE: "password"},
        dovecot_extra=key.settings(asked=False),
    ) as lab:
        code, text = send_lmtp((lab.dovecot.lmtp_socket, 0), SENDER, [ALICE], MAIL)[0]
        assert code // 100 == 4, text
        assert lab.stored(ALICE) == []


def test_doctor_knows_the_key_of_the_site(site: Lab) -> None:
    done = site.mailseal("doctor", "--plain-user", PLAIN, "--only", "plain-user")
    assert b"is found with the key of the site" in done.stdout, done.stdout
    done = site.mailseal("doctor", "--plain-user", ALICE, "--only", "plain-user")
    assert b"has a public key" in done.stdout, done.stdout
