# SPDX-License-Identifier: MIT
"""The format in which a login by Lua gets its public key: the one that Dovecot reads fastest."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from mailseal.crypto.eckeys import PublicKey
from tests.e2e.mails import HEADERS
from tests.lab import ALICE, Imap, Lab
from tests.lab.dovecot import installed_version, series
from tests.lab.process import logged, wait_until
from tests.lab.smtp import send

AUTH = ("behind-passwd-file", "mailseal-only")
SERIES = series(installed_version())
LOGGED = {"2.3": "auth_debug = yes\n", "2.4": "log_debug = category=auth\n"}
FIELD = {
    "2.3": "mail_crypt_global_public_key[=\t]",
    "2.4": "crypt_global_public_key_file[=\t]inline:",
}
MAIL = HEADERS + b"hello\r\n"
SAVED = HEADERS + b"saved in Sent\r\n"


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    auth, curve = request.param
    made = Lab({}, auth=auth, dovecot_extra=LOGGED[SERIES], config_extra={"keys.curve": curve})
    with made:
        made.add_user(ALICE)
        yield made


def values(text: str) -> list[str]:
    """The field's values in a text.  Dovecot logs a tab as the byte 1 and the letter t."""
    found = re.findall(FIELD[SERIES] + "([0-9a-f:\t]+)", text.replace("\x01t", "\t"))
    return [value.rstrip("\t") for value in found]


@pytest.mark.parametrize("lab", [(auth, "prime256v1") for auth in AUTH], indirect=True)
def test_a_login_gets_the_older_format(lab: Lab) -> None:
    """Mail is read and sealed with it; a lookup without a password still gets the newer one."""
    send(lab.smtp, "eve@example.net", [ALICE], MAIL)
    lab.wait_delivered()
    with lab.login() as imap:
        (mail,) = imap.bodies()
        imap.append("Sent", SAVED)
    assert mail.endswith(b"hello\r\n")
    (path,) = lab.stored(ALICE, "Sent")
    with open(path, "rb") as stream:
        assert stream.read(9) == b"CRYPTED\x03\x07"
    with Imap(lab.imap, ALICE, lab.users[ALICE]) as imap:
        (saved,) = imap.bodies("Sent")
    assert saved.endswith(b"saved in Sent\r\n")
    (newer,) = values(lab.dovecot.doveadm("user", ALICE).decode())
    point = PublicKey.parse(newer).spki.hex()[-66:]
    logged(lab, f"1\x01t415\x01t{point}\x01t")


@pytest.mark.parametrize("lab", [("behind-passwd-file", "secp384r1")], indirect=True)
def test_other_curves_have_one_format(lab: Lab) -> None:
    send(lab.smtp, "eve@example.net", [ALICE], MAIL)
    lab.wait_delivered()
    with lab.login() as imap:
        (mail,) = imap.bodies()
    assert mail.endswith(b"hello\r\n")
    wait_until(lambda: values(lab.dovecot.log_text()), "Dovecot has logged the key")
    assert {value[:2] for value in values(lab.dovecot.log_text())} == {"2:"}
