# SPDX-License-Identifier: MIT
"""Relayed mail is sealed or deferred, with any settings and userdb fields about plugins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.process import logged, wait_until
from tests.lab.search import files_with
from tests.lab.smtp import send_lmtp

SENDER = "eve@example.net"
MAIL = b"Subject: tangerine\r\n\r\nin the cellar\r\n"
LANGUAGE = series(installed_version())

# mail_crypt is in no list of plugins for LMTP.
_WITHOUT = {
    "2.3": "protocol lmtp {\n  mail_plugins = quota\n}\n",
    "2.4": "protocol lmtp {\n  mail_plugins {\n    mail_crypt = no\n    quota = yes\n  }\n}\n",
}
_HARMLESS = {
    "2.3": ["", "userdb_mail_plugins=quota", "userdb_quota_rule=*:storage=1G"],
    "2.4": [
        "",
        "userdb_mail_plugins/quota=yes",
        "userdb_anything=else",
        "userdb_*/crypt_write_algorithm=",  # mailseal's userdb overrides it
    ],
}
_UNDOING = {
    "2.3": [
        "userdb_plugin/mail_crypt_save_version=0",
        "userdb_plugin/mail_crypt_global_public_key=junk",
        "userdb_mail=mbox:~/mail",
        "userdb_mail_plugin_dir=/elsewhere",
    ],
    "2.4": [
        "userdb_mail_plugins=quota",
        "userdb_mail_plugins=",
        "userdb_*/mail_plugins=quota",
        "userdb_mail_driver=mbox",
    ],
}


def _named(kind: str, fields: list[str]) -> dict[str, str]:
    return {f"{kind}{number}@example.org": text for number, text in enumerate(fields)}


GOOD = _named("good", _HARMLESS[LANGUAGE])
BAD = _named("bad", _UNDOING[LANGUAGE])


@pytest.fixture(scope="module")
def site() -> Iterator[Lab]:
    """All mail of enrolled users is relayed to Dovecot, whose LMTP does not load mail_crypt."""
    users = dict.fromkeys([*GOOD, *BAD], "password")
    made = Lab(
        users,
        auth="behind-passwd-file",
        dovecot_extra=_WITHOUT[LANGUAGE],
        config_extra={"delivery.sieve": "always"},
    )
    made.dovecot.write_users(users, {**GOOD, **BAD})
    with made:
        yield made


@pytest.mark.parametrize("user", GOOD, ids=lambda user: f"{user.split('@')[0]} {GOOD[user]}")
def test_the_userdb_fields_load_mail_crypt(site: Lab, user: str) -> None:
    assert send_lmtp(site.lmtp, SENDER, [user], MAIL)[0][0] == 250
    logged(site, f"to=<{user}>, action=relayed, keyid=")
    (path,) = site.stored(user)
    with open(path, "rb") as stream:
        assert stream.read(7) == b"CRYPTED"
    assert files_with(site.home(user), b"tangerine") == []
    with Imap(site.imap, user, "password") as imap:
        assert [body.endswith(MAIL) for body in imap.bodies()] == [True]


@pytest.mark.parametrize("user", BAD, ids=lambda user: f"{user.split('@')[0]} {BAD[user]}")
def test_fields_that_may_turn_sealing_off_defer(site: Lab, user: str) -> None:
    assert send_lmtp(site.lmtp, SENDER, [user], MAIL)[0][0] == 451
    assert files_with(site.home(user), b"tangerine") == []
    assert site.stored(user) == []
    field = BAD[user].removeprefix("userdb_")
    said = (  # by mailseal's userdb, or by mailseal-lmtp
        f"the userdb field {field.partition('=')[0]} may turn sealing off",
        f"but {field}, of the userdb or of Dovecot's settings, may turn sealing off",
    )
    wait_until(lambda: any(text in site.log_text() for text in said), f"the log says {said}")
