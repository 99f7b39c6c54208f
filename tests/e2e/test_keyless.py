# SPDX-License-Identifier: MIT
"""Logins of enrolled users without the user's key are refused, and nothing is saved in clear.

This is true for any user name or fields from a userdb, any password and any mechanism.  Nothing
changes for users who are not enrolled.
"""

from __future__ import annotations

import contextlib
import imaplib
import os
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.keyless import CLEAR, DOORS, MAIL, PLAIN, SENDER, SERIES, append, heads
from tests.lab import ALICE, BOB, Imap, Lab, LabError, Pop3, Refused
from tests.lab.dovecot import snippet
from tests.lab.process import logged
from tests.lab.smtp import send

ALIAS = "alias@example.org"


@pytest.fixture(scope="module", params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lab(door: str) -> Iterator[Lab]:
    """alice is enrolled, plain is not; alias is not, but a userdb may change it to alice."""
    with Lab(auth=door, plain_users={PLAIN: "password", ALIAS: "password"}) as made:
        yield made


@contextlib.contextmanager
def user_fields(lab: Lab, more: dict[str, str]) -> Iterator[None]:
    """Userdb fields in the existing passwd-file."""
    users = {**lab.users, **lab.options.plain_users}
    lab.dovecot.write_users(users, more)
    try:
        yield
    finally:
        lab.dovecot.write_users(users)


def test_an_agent_that_is_down_affects_only_logins_of_enrolled_users(lab: Lab) -> None:
    send(lab.smtp, SENDER, [PLAIN], MAIL)
    lab.wait_delivered()
    for stop, start in (
        (lab.stop_agent, lab.start_agent),
        (lambda: freeze(lab, signal.SIGSTOP), lambda: freeze(lab, signal.SIGCONT)),
    ):
        stop()
        try:
            before = len(lab.stored(PLAIN)), len(lab.stored(ALICE))
            append(lab, PLAIN)
            with Pop3(lab.pop3, PLAIN, "password") as pop3:
                assert pop3.mail(1).endswith(MAIL[-20:])
            assert b"save_version\t0" in lab.dovecot.doveadm("user", PLAIN) or SERIES == "2.4"
            assert b"public_key" in lab.dovecot.doveadm("user", ALICE)
            listed = lab.dovecot.doveadm("user", "*").decode().split()
            assert sorted(listed) == sorted([ALICE, PLAIN, ALIAS])
            lab.restart_delivery()  # it forgets the results of lookups
            send(lab.smtp, SENDER, [ALICE, PLAIN], MAIL)
            lab.wait_delivered()
            assert (len(lab.stored(PLAIN)), len(lab.stored(ALICE))) == (
                before[0] + 1,
                before[1] + 1,
            )
        finally:
            start()
    assert heads(lab, PLAIN) <= CLEAR and heads(lab, ALICE) == {b"CRYPTED"}


def test_an_auth_worker_that_is_not_root(door: str) -> None:
    """It may open public keys by name, but not list them."""
    worker = "service auth-worker {\n  user = dovecot\n}\n"
    with Lab(auth=door, plain_users={PLAIN: "password"}, dovecot_extra=worker) as lab:
        append(lab, ALICE)
        append(lab, PLAIN)
        send(lab.smtp, SENDER, [PLAIN], MAIL)
        lab.wait_delivered()
        assert heads(lab, ALICE, "Sent") == {b"CRYPTED"}
        assert heads(lab, PLAIN, "Sent") == {b"From: <"}
        assert heads(lab, PLAIN) <= CLEAR


def freeze(lab: Lab, number: signal.Signals) -> None:
    os.kill(lab.agent.pid, number)


@contextlib.contextmanager
def renaming(door: str, names: dict[str, str]) -> Iterator[Lab]:
    """A lab whose userdb, but not its passdb, changes user names."""
    enrolled = {ALICE: "password", BOB: "password"}
    lab = Lab(enrolled, auth=None, plain_users={PLAIN: "password", ALIAS: "password"})
    passdb_file = lab.dovecot.wanted.users_file
    userdb_file = lab.place.path("dovecot", "renamed")
    users = {**lab.users, **lab.options.plain_users}
    lab.dovecot.write_users(users, {old: f"userdb_user={new}" for old, new in names.items()})
    os.rename(passdb_file, userdb_file)
    lab.dovecot.write_users(users)
    chain = snippet(lab.dovecot.version, f"auth-{door}", lab.dovecot.wanted.places)
    if SERIES == "2.3":
        old = f"userdb {{\n  driver = passwd-file\n  args = {passdb_file}\n"
        assert chain.count(old) == 1
        chain = chain.replace(old, old.replace(passdb_file, userdb_file))
    else:
        chain = (
            f"passdb passwd-file {{\n  passwd_file_path = {passdb_file}\n}}\n"
            f"userdb passwd-file {{\n  passwd_file_path = {userdb_file}\n}}\n{chain}"
        )
    lab.dovecot.write_config(extra=chain)
    with lab:
        yield lab


def test_an_alias_that_only_a_userdb_knows(door: str) -> None:
    """The passdb is asked for the alias, which has no key; the mailbox is alice's."""
    with renaming(door, {ALIAS: ALICE}) as lab:
        for service in (Imap, Pop3):
            with pytest.raises(Refused):
                service(getattr(lab, service.__name__.lower()), ALIAS, "password")
        logged(lab.dovecot, "came without the user's key")
        assert b"public_key" in lab.dovecot.doveadm("user", ALIAS)
        append(lab, ALICE)
        append(lab, PLAIN)
        assert heads(lab, ALICE, "Sent") == {b"CRYPTED"}
        assert heads(lab, PLAIN, "Sent") <= {b"From: <"}


def test_an_enrolled_alias_of_a_plain_user(door: str) -> None:
    with renaming(door, {ALICE: PLAIN}) as lab:
        with pytest.raises(Refused):
            append(lab, ALICE)
        logged(lab.dovecot, "has a key, but the user is not enrolled on this host")
        assert heads(lab, PLAIN, "Sent") == set()


def test_an_enrolled_alias_of_an_enrolled_user(door: str) -> None:
    with renaming(door, {ALICE: BOB}) as lab:
        with pytest.raises(Refused):
            append(lab, ALICE)
        logged(lab.dovecot, "has another key than this host seals with")
        assert heads(lab, BOB, "Sent") == set()


# In 2.4, `mail_plugins=` replaces the list: see test_fields_that_undo_sealing_refuse_the_login.
@pytest.mark.parametrize(
    "field",
    {
        "2.3": ["mail_plugins=quota", "mail_plugins=acl,quota"],
        "2.4": ["mail_plugins/quota=yes", "mail_plugins/mail_crypt=no"],
    }[SERIES],
)
def test_mail_plugins_without_mail_crypt(lab: Lab, field: str) -> None:
    """From a userdb: an enrolled user's mail is sealed nevertheless."""
    with user_fields(lab, {ALICE: f"userdb_{field}"}):
        told = lab.dovecot.doveadm("user", ALICE).decode().splitlines()
        assert any(line.split() == field.split("=") for line in told), told
        append(lab, ALICE)
        with lab.login() as imap:
            assert imap.bodies("Sent")[-1] == MAIL
    assert heads(lab, ALICE, "Sent") == {b"CRYPTED"}


@pytest.mark.parametrize("value", ["0", "no", ""])
def test_fields_that_would_turn_sealing_off(lab: Lab, value: str) -> None:
    fields = [
        f"userdb_mail_crypt_save_version={value}",
        f"userdb_crypt_write_algorithm={'' if value == '0' else value}",
        f"userdb_mail_plugins/mail_crypt={value}",
    ]
    wanted = fields[:1] if SERIES == "2.3" else fields[1:]
    with user_fields(lab, {ALICE: " ".join(wanted)}), contextlib.suppress(Refused):
        append(lab, ALICE)
    assert heads(lab, ALICE, "Sent") <= {b"CRYPTED"}


@pytest.mark.parametrize(
    "fields",
    {
        "2.3": [
            "userdb_plugin/mail_crypt_save_version=0",
            "userdb_plugin/mail_crypt_global_public_key=junk",
            "userdb_mail_plugin_dir=/elsewhere",
            "userdb_mail=mbox:~/mail",
            "userdb_mail_location=mbox:~/mail",
            "userdb_namespace/inbox/location=mbox:~/mail",
            "userdb_mail_attachment_dir=~/apart",
        ],
        "2.4": [
            "userdb_mail_plugins=quota",
            "userdb_mail_plugins=",
            "userdb_*/mail_plugins=quota",
            "userdb_mail_plugin_dir=/elsewhere",
            "userdb_mail_driver=mbox",
            "userdb_namespace/inbox/mail_driver=mbox",
            "userdb_mail_ext_attachment_path=~/apart",
            "userdb_*/mail_ext_attachment_path=~/apart",
        ],
    }[SERIES],
)
def test_fields_that_undo_sealing_refuse_the_login(lab: Lab, fields: str) -> None:
    with user_fields(lab, {ALICE: fields}), pytest.raises(Refused):
        append(lab, ALICE)
    logged(lab.dovecot, "may turn sealing off")


@pytest.mark.parametrize("size", [480, 500, 512, 600, 1000])
def test_long_passwords(lab: Lab, size: int) -> None:
    """Dovecot 2.3's checkpassword passes 512 bytes with the user name; no login lacks a key."""
    user, password = f"long{size}@example.org", "x" * size
    users = {**lab.users, **lab.options.plain_users}
    lab.dovecot.write_users({**users, user: password})
    done = lab.mailseal("enroll", "--stdin", user, stdin=password.encode() + b"\n")
    send(lab.smtp, SENDER, [user], MAIL)
    lab.wait_delivered()
    refused = False
    try:
        with Pop3(lab.pop3, user, password) as pop3:
            assert pop3.mail(1).endswith(MAIL[-20:]), "an empty mail"
        append(lab, user, password)
    except Refused:
        refused = True
    lab.dovecot.write_users(users)
    assert heads(lab, user, "Sent") <= ({b"CRYPTED"} if done.returncode == 0 else CLEAR)
    assert not refused or size + len(user) > 500


def test_a_long_password_that_only_the_passdb_knows(lab: Lab) -> None:
    """A panel has set it.  2.3's checkpassword cannot carry it: no login without the key."""
    password = "x" * 600
    users = {**lab.users, **lab.options.plain_users}
    lab.dovecot.write_users({**users, ALICE: password})
    try:
        for service in (Imap, Pop3):
            with pytest.raises(Refused):
                service(getattr(lab, service.__name__.lower()), ALICE, password)
    finally:
        lab.dovecot.write_users(users)


@pytest.mark.parametrize("password", ["", "wrong", "\x00", "\x00password", "password\x00x"])
def test_invalid_passwords(lab: Lab, password: str) -> None:
    with contextlib.suppress(Refused):
        append(lab, ALICE, password)
        assert password.split("\x00")[0] == "password", "Dovecot reads up to a NUL"
    assert heads(lab, ALICE, "Sent") <= {b"CRYPTED"}


def test_two_accounts_that_differ_in_case_only() -> None:
    """The keyring's name would be the same for both."""
    upper = "Alice@example.org"
    case = "%u" if SERIES == "2.3" else "%{user}"
    extra = f"auth_username_format = {case}\n"
    with Lab(auth=DOORS[0], plain_users={upper: "password", "Bob@example.org": "password"},
             dovecot_extra=extra) as lab:  # fmt: skip
        append(lab, ALICE)
        append(lab, "Bob@example.org")
        with pytest.raises(Refused, match="UNAVAILABLE"):
            append(lab, upper)
        with pytest.raises(LabError):
            lab.dovecot.doveadm("user", upper)
        logged(lab.dovecot, "auth_username_format")
        assert heads(lab, "Bob@example.org", "Sent") == {b"From: <"}
        assert heads(lab, upper, "Sent") == set()


def test_mechanisms_without_a_password(door: str) -> None:
    """CRAM-MD5: as before for users who are not enrolled; it opens no keyring."""
    extra = "auth_mechanisms = plain login cram-md5\n"
    with Lab(auth=door, plain_users={PLAIN: "password"}, dovecot_extra=extra) as lab:
        with imaplib.IMAP4(*lab.imap) as client:
            client.login_cram_md5(PLAIN, "password")
            assert client.append("Sent", None, None, MAIL)[0] == "OK"
        with pytest.raises(imaplib.IMAP4.error), imaplib.IMAP4(*lab.imap) as client:
            client.login_cram_md5(ALICE, "password")
            client.append("Sent", None, None, MAIL)
        assert heads(lab, PLAIN, "Sent") == {b"From: <"}
        assert heads(lab, ALICE, "Sent") == set()
        append(lab, ALICE)
        assert heads(lab, ALICE, "Sent") == {b"CRYPTED"}
