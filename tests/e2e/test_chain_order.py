# SPDX-License-Identifier: MIT
"""Passdbs and userdbs in a wrong order, and a protocol block without mail_crypt.

Dovecot stores nothing in clear for an enrolled user.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.e2e.keyless import DOORS, MAIL, PLAIN, SENDER, SERIES, append, heads
from tests.lab import ALICE, Lab, Refused
from tests.lab.dovecot import snippet
from tests.lab.smtp import send_lmtp

PASSDB = {
    "2.3": "passdb {{\n  driver = passwd-file\n  args = {}\n}}\n",
    "2.4": "passdb old {{\n  driver = passwd-file\n  passwd_file_path = {}\n}}\n",
}[SERIES]
USERDB = PASSDB.replace("passdb", "userdb")


def config(lab: Lab, before: str = "", after: str = "", chain: bool = True) -> str:
    """All blocks for a lab with auth=None."""
    places = lab.dovecot.wanted.places
    return (
        before + (snippet(lab.dovecot.version, "auth-" + DOORS[0], places) if chain else "") + after
    )


@pytest.mark.parametrize("wrong", ["old passdb first", "old userdb first", "both", "no chain"])
def test_wrong_orders_are_reported_and_store_nothing_in_clear(wrong: str) -> None:
    """Passdbs and userdbs without mailseal's: Dovecot refuses to save, and mail is deferred."""
    lab = Lab(auth=None, plain_users={PLAIN: "password"})
    users = lab.dovecot.wanted.users_file
    before = ""
    if wrong in ("old passdb first", "both", "no chain"):
        before += PASSDB.format(users)
    if wrong in ("old userdb first", "both", "no chain"):
        before += USERDB.format(users)
    if SERIES == "2.4" and wrong != "no chain":
        before += f"passdb passwd-file {{\n  passwd_file_path = {users}\n}}\n"
        before += f"userdb passwd-file {{\n  passwd_file_path = {users}\n}}\n"
    lab.dovecot.write_config(extra=config(lab, before=before, chain=wrong != "no chain"))
    with lab:
        for user in (ALICE, PLAIN):
            with contextlib.suppress(Refused):
                append(lab, user)
            replies = send_lmtp(lab.lmtp, SENDER, [user], MAIL)
            assert replies[0][0] in (250, 451), replies
        assert heads(lab, ALICE) <= {b"CRYPTED"}
        assert heads(lab, ALICE, "Sent") <= {b"CRYPTED"}
        if (
            wrong != "old passdb first"
        ):  # then mailseal's userdb is asked about users who are not enrolled
            assert heads(lab, PLAIN, "Sent") == set()
            assert heads(lab, PLAIN) == set()


@pytest.mark.parametrize("plugins", ["quota", ""])
def test_a_protocol_block_without_mail_crypt(plugins: str) -> None:
    block = {
        "2.3": f"protocol imap {{\n  mail_plugins = {plugins}\n}}\n",
        "2.4": "protocol imap {\n  crypt_write_algorithm =\n"
        f"  mail_plugins {{\n    mail_crypt = no\n    {plugins or 'acl'} = yes\n  }}\n}}\n",
    }[SERIES]
    with Lab(auth=DOORS[0], plain_users={PLAIN: "password"}, dovecot_extra=block) as lab:
        append(lab, ALICE)
        append(lab, PLAIN)
        assert heads(lab, ALICE, "Sent") == {b"CRYPTED"}
        assert heads(lab, PLAIN, "Sent") <= {b"From: <"}
