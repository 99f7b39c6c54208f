# SPDX-License-Identifier: MIT
"""Routing fails closed: after any failure, mail of enrolled users is never in clear."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.delivery.deliver import relay_one
from mailseal.delivery.dovecot.location import Account
from mailseal.delivery.dovecot.relay import Relay
from mailseal.delivery.group import seal_group
from mailseal.delivery.lmtp.syntax import Address
from mailseal.delivery.message import Envelope
from mailseal.delivery.route import Router
from mailseal.errors import (
    MailsealError,
    NoSuchUser,
    RecipientDeferred,
    RecipientRefused,
    TemporaryError,
)
from tests.delivery.store import Here, files, mail

ALICE = Address("alice", "example.org")


@pytest.fixture
def here(tmp_path: Any) -> Here:
    made = Here(str(tmp_path))
    made.enroll("alice@example.org")
    made.add_user("plain@example.org")
    return made


def public(here: Here, *parts: str) -> str:
    return os.path.join(here.dir, "state", "public", *parts)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)


def _damage(here: Here, how: str) -> None:
    key = public(here, "alice@example.org.json")
    if how.startswith("key file"):
        os.unlink(key)
    else:
        shutil.rmtree(public(here))
    if how in ("key file empty", "key file junk"):
        _write(key, b"" if how == "key file empty" else b"\xff" * 99)
    elif how == "key file a folder":
        os.mkdir(key)
    elif how == "empty mount point":
        os.mkdir(public(here))
    elif how == "folder is a file":
        _write(public(here), b"")


DAMAGES = ["key file gone", "key file empty", "key file junk", "key file a folder"]
DAMAGES += ["all gone", "empty mount point", "folder is a file"]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_key_store_defers(here: Here, name: str) -> None:
    jobs = here.jobs("alice@example.org")
    shutil.copytree(public(here), f"{here.dir}/saved")
    _damage(here, name)
    with pytest.raises(TemporaryError):
        Router(here.config).route(ALICE)
    # The same if it happens between RCPT and the end of the mail.
    seal_group(jobs, here.store())
    assert jobs[0].result is not None
    assert jobs[0].result.reply.code == 451
    assert files(jobs[0].route.maildir, "new") == []
    if os.path.isdir(public(here)):
        shutil.rmtree(public(here))
    elif os.path.exists(public(here)):
        os.unlink(public(here))
    shutil.copytree(f"{here.dir}/saved", public(here))
    assert Router(here.config).route(ALICE).action == "seal"


def test_withdrawn_in_between_defers(here: Here) -> None:
    jobs = here.jobs("alice@example.org")
    here.public.withdraw("alice@example.org")
    seal_group(jobs, here.store())
    assert jobs[0].result is not None
    assert jobs[0].result.reply.code == 451
    assert files(jobs[0].route.maildir, "new") == []


def test_a_new_key_is_used_at_once(here: Here) -> None:
    store = here.store()
    jobs = here.jobs("alice@example.org")
    new = PrivateKey.generate()
    here.public.publish("alice@example.org", new.public)
    seal_group(jobs, store)
    here.keys = {"alice@example.org": new}
    assert here.opened(files(jobs[0].route.maildir, "new")[0]).endswith(b"text\n")


def test_policies(here: Here) -> None:
    plain = Address("plain", "example.org")
    route = Router(here.config).route(plain)
    assert (route.action, route.key, route.why) == ("relay", None, "not enrolled")
    with pytest.raises(RecipientDeferred):
        Router(here.configure(not_enrolled="defer")).route(plain)
    with pytest.raises(RecipientRefused):
        Router(here.configure(not_enrolled="reject")).route(plain)
    with pytest.raises(NoSuchUser):
        Router(here.config).route(Address("nobody", "example.org"))


def test_details(here: Here) -> None:
    for local, detail in (("alice+x+y", "x+y"), ("alice", ""), ("alice+", "")):
        route = Router(here.config).route(Address(local, "example.org"))
        assert (route.user, route.detail) == ("alice@example.org", detail)
    with pytest.raises(NoSuchUser):
        Router(here.config).route(Address("+x", "example.org"))
    with pytest.raises(NoSuchUser):
        Router(here.configure(recipient_delimiter=None)).route(Address("alice+x", "example.org"))


class OneAccount:
    """A user database that always returns the same."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def lookup(self, address: str, *, anew: bool = False) -> Account:
        del address, anew
        return self.account

    def remembered(self, address: str) -> None:
        del address


def routed(here: Here, **account: Any) -> Any:
    values = {
        "user": "alice@example.org",
        "home": os.path.join(here.dir, "homes", "example.org", "alice"),
        "maildir": "/m",
        "uid": os.geteuid(),
        "extra": {},
        "name": "alice@example.org",
    }
    if "user" in account:
        values["name"] = account["user"]
    router = Router(here.config)
    # The template returns no fields; Dovecot is asked for those that prove sealing.
    router._users = router._dovecot = OneAccount(Account(**{**values, **account}))  # type: ignore[assignment]
    return router.route(ALICE)


def fields(key: PrivateKey, **more: str) -> dict[str, str]:
    return {
        "mail_plugins+": " mail_crypt",
        "mail_crypt_global_public_key": key.public.dovecot_string(),
        "mail_crypt_save_version": "2",
        **more,
    }


HARMLESS: list[dict[str, str]] = [
    {"quota_rule": "*:storage=1G"},
    {"mail_plugins/quota": "yes"},
    {"gid": "5000", "system_groups_user": "alice", "acl_groups": "a,b"},
    {"mail": "sdbox:~/sdbox"},
    {"mail": "maildir:~/Maildir", "mail_attachment_dir": "~/attachments"},
    {"mail": "mdbox:~/mdbox", "mail_attachment_fs": "posix:prefix=/dev/null/x"},
    {"mail_driver": "mdbox", "mail_ext_attachment_path": "", "*/mail_ext_attachment_path": ""},
    {"mail_driver": "mdbox", "mail_path": "~/mdbox"},
]
UNDOING: list[dict[str, str]] = [
    {"plugin/mail_crypt_save_version": "0"},
    {"plugin/mail_crypt_global_public_key": ""},
    {"mail_plugins/mail_crypt": "no"},
    {"*/mail_plugins": "quota"},
    {"*/crypt_write_algorithm": ""},
    {"crypt_write_algorithm+": ""},
    {"protocol/lmtp/mail_plugins": ""},
    {"namespace/inbox/crypt_write_algorithm": ""},
    {"mail_plugin_dir": "/elsewhere"},
    {"mail_attachment_dir": "~/attachments", "mail": "mdbox:~/mdbox"},
    {"mail_ext_attachment_path": "~/attachments", "mail_driver": "sdbox"},
    {"mail": "mbox:~/mail"},
    {"mail_driver": "imapc"},
    {"namespace/old/location": "mbox:~/mail"},
    {"namespace/old/mail_driver": "mbox"},
]
WRONG_IN_23 = [
    ("mail_crypt_save_version", "0"),
    ("mail_crypt_global_public_key", "junk"),
    ("mail_plugins+", "mail_crypt"),
    ("mail_plugins+", " quota"),
]


@pytest.mark.parametrize(
    ("account", "why"),
    [
        ({"maildir": None}, "not a Maildir"),
        ({"uid": os.geteuid() + 1}, "another uid"),
        ({"extra": {"sieve": "dict:x"}}, "sieve script"),
    ],
)
def test_dovecot_gets_it_only_if_it_seals_with_the_same_key(
    here: Here, account: dict[str, Any], why: str
) -> None:
    own = here.keys["alice@example.org"]
    extra = account.get("extra", {})
    first = routed(here, **{**account, "extra": {**extra, **fields(own)}})
    assert (first.action, first.why) == ("relay", why)
    assert first.key.key_id == own.key_id
    in_24 = {
        "*/mail_plugins/mail_crypt": "yes",
        "crypt_global_public_key_file": "inline:" + own.public.dovecot_string(),
        "crypt_write_algorithm": "aes-256-gcm-sha256",
        "*/crypt_write_algorithm": "aes-256-gcm-sha256",
    }
    for more in HARMLESS:
        for good in (fields(own), in_24):
            assert (
                routed(here, **{**account, "extra": {**extra, **good, **more}}).key.key_id
                == own.key_id
            )
    assert routed(here, **{**account, "extra": {**extra, **fields(own, mail_plugins="quota")}}).key
    wrong = [
        {},
        fields(PrivateKey.generate()),
        {**in_24, "crypt_write_algorithm": ""},
        {**in_24, "*/crypt_write_algorithm": ""},
        {**in_24, "mail_plugins": "quota"},
        {**in_24, "mail_plugins+": " quota"},
    ]
    for good in (fields(own), in_24):
        wrong += [{n: v for n, v in good.items() if n != name} for name in good]
        wrong += [{**good, **more} for more in UNDOING]
    wrong += [fields(own, **{name: value}) for name, value in WRONG_IN_23]
    for bad in wrong:
        with pytest.raises(TemporaryError):
            routed(here, **{**account, "extra": {**extra, **bad}})


def test_scripts(here: Here) -> None:
    own = here.keys["alice@example.org"]
    home = os.path.join(here.dir, "homes", "example.org", "alice")

    def action(**extra: str) -> str:
        return str(routed(here, home=home, extra=fields(own, **extra)).action)

    assert action() == "seal"
    _write(os.path.join(home, ".dovecot.sieve"), b"keep;")
    assert action() == "relay"
    assert action(sieve="~/other.sieve") == "seal"
    assert action(sieve="file:~/sieve;active=~/.dovecot.sieve") == "relay"
    assert action(sieve="%{odd}") == "relay"
    for name in ("sieve_before", "sieve_after2", "sieve_default", "sieve_script/site/path"):
        assert action(**{"sieve": "~/other.sieve", name: "/etc/s"}) == "relay"
    os.unlink(os.path.join(home, ".dovecot.sieve"))
    os.symlink("loop", os.path.join(home, "loop"))
    with pytest.raises(MailsealError):
        action(sieve="~/loop")


def test_keys_under_another_name_than_dovecots_defer(here: Here) -> None:
    """`mailseal enroll alice@example.org`, but Dovecot's name for the user is alice."""
    with pytest.raises(TemporaryError, match=r"alice@example\.org has a key"):
        routed(here, user="alice")
    here.public.withdraw("alice@example.org")
    assert routed(here, user="alice").why == "not enrolled"
    here.enroll("alice")
    assert routed(here, user="alice").action == "seal"


def test_a_name_in_another_case_than_the_key_defers(here: Here) -> None:
    """With a case-sensitive auth_username_format, Alice and alice may be two users."""
    with pytest.raises(TemporaryError, match="two users") as caught:
        routed(here, name="Alice@example.org")
    assert "auth_username_format" in str(caught.value.hint)
    here.public.withdraw("alice@example.org")
    assert routed(here, name="Alice@example.org").why == "not enrolled"


def test_dovecot_that_cannot_be_asked_or_knows_another_user_defers(here: Here) -> None:
    """With a template, for a user whose mail must be relayed to Dovecot."""
    here.config = here.configure(sieve="always")
    router = Router(here.config)
    with pytest.raises(TemporaryError, match="cannot ask Dovecot"):
        router.route(ALICE)
    bob = Account("bob", "/h", "/m", None, fields(here.keys["alice@example.org"]), name="bob")
    router._dovecot = OneAccount(bob)  # type: ignore[assignment]
    with pytest.raises(TemporaryError, match="whose name for this user is bob"):
        router.route(ALICE)


def test_sieve_for_all_is_relayed_or_deferred(here: Here) -> None:
    here.config = here.configure(sieve="always")
    route = routed(here, extra=fields(here.keys["alice@example.org"]))
    assert (route.action, route.why) == ("relay", "sieve for all")
    for extra in ({}, fields(PrivateKey.generate())):
        with pytest.raises(TemporaryError):
            routed(here, extra=extra)
    here.config = here.configure()
    assert routed(here).action == "seal"


def test_an_enrolled_user_without_a_home_is_deferred(here: Here) -> None:
    """Only with a template, where the folders are the user database."""
    shutil.rmtree(os.path.dirname(here.jobs("alice@example.org")[0].route.maildir))
    with pytest.raises(TemporaryError, match="the user has a key"):
        Router(here.config).route(ALICE)
    with pytest.raises(NoSuchUser):
        Router(here.config).route(Address("nobody", "example.org"))


def test_a_user_enrolled_during_a_delivery_gets_no_mail_in_clear(here: Here) -> None:
    router = Router(here.config)
    route = router.route(Address("plain", "example.org"))
    assert (route.action, route.key) == ("relay", None)
    here.enroll("plain@example.org")
    envelope = Envelope(Address("s", "example.com"), "client", "", "mx.example.org")
    nobody = Relay(os.path.join(here.dir, "nobody-listens"), 1, "mx.example.org", "nobody")
    outcome = relay_one(route, envelope, mail(b"Subject: x\r\n\r\n"), router, nobody)
    assert outcome.reply.code == 451
    assert "enrolled while" in outcome.detail
