# SPDX-License-Identifier: MIT
"""Dovecot's index caches in memory: wiped when nobody uses them, and bounded."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab import ALICE, BOB, Imap, Lab
from tests.lab.process import wait_until
from tests.lab.smtp import send

PLAIN = "plain@example.org"
CAROL = "carol@example.org"


@pytest.fixture(scope="module")
def memory_lab() -> Iterator[Lab]:
    extra = {"index.lock_after": "2s", "index.cache_per_user": "200K", "index.cache_total": "300K"}
    users = {ALICE: "password", BOB: "password", CAROL: "password"}
    with Lab(
        users, auth="behind-passwd-file", plain_users={PLAIN: "password"}, config_extra=extra
    ) as made:
        yield made


def _fill(lab: Lab, user: str, count: int) -> None:
    for number in range(count):
        mail = f"From: eve@example.net\nTo: {user}\nSubject: {number}\n\nText\n"
        send(lab.smtp, "eve@example.net", [user], mail.encode())
    lab.wait_delivered()


def _list(lab: Lab, user: str) -> None:
    with Imap(lab.imap, user, "password") as imap:
        imap.select()
        imap.command(b"FETCH 1:* (ENVELOPE BODYSTRUCTURE)")


def _cache(lab: Lab, user: str) -> str:
    return lab.place.quick_path("cache", user, ".INBOX", "dovecot.index.cache")


def test_wiped_after_the_last_logout(memory_lab: Lab) -> None:
    """Not while a connection lives, and not that of a user who is not enrolled."""
    lab = memory_lab
    for user in (ALICE, PLAIN):
        _fill(lab, user, 2)
        _list(lab, user)
    with lab.login(ALICE) as imap:
        imap.select()
        imap.command(b"FETCH 1:* (ENVELOPE)")
        _fill(lab, BOB, 2)
        _list(lab, BOB)
        wait_until(lambda: not os.path.exists(_cache(lab, BOB)), "bob's cache is wiped")
        assert os.path.exists(_cache(lab, ALICE))
    wait_until(lambda: not os.path.exists(_cache(lab, ALICE)), "alice's cache is wiped")
    assert os.path.exists(_cache(lab, PLAIN))
    _list(lab, ALICE)  # built again


def test_wiped_by_lock_and_by_the_end(memory_lab: Lab) -> None:
    lab = memory_lab
    _fill(lab, ALICE, 1)
    with lab.login(ALICE) as imap:
        imap.select()
        imap.command(b"FETCH 1:* (ENVELOPE)")
        assert os.path.exists(_cache(lab, ALICE))
        assert lab.mailseal("lock", ALICE).returncode == 0
        assert not os.path.exists(_cache(lab, ALICE))
        imap.command(b"FETCH 1:* (ENVELOPE)")
    _list(lab, ALICE)
    lab.stop_agent()
    try:
        assert not os.path.exists(_cache(lab, ALICE))
    finally:
        lab.start_agent()


def test_never_too_large(memory_lab: Lab) -> None:
    """A cache beyond the limit goes; so does the one that was not used for the longest time."""
    lab = memory_lab
    sizes = {ALICE: 140 << 10, BOB: 140 << 10, CAROL: 140 << 10, PLAIN: 250 << 10}
    uid = os.stat(lab.place.quick_path("cache")).st_uid
    open_ones = [lab.login(user) for user in (ALICE, BOB, CAROL)]
    try:
        for age, (user, size) in enumerate(sizes.items()):
            os.makedirs(os.path.dirname(_cache(lab, user)), exist_ok=True)
            with open(_cache(lab, user), "wb") as stream:
                stream.write(bytes(size))
            for path in (os.path.dirname(_cache(lab, user)), _cache(lab, user)):
                os.chown(path, uid, uid)
            os.utime(_cache(lab, user), (1e9 + age, 1e9 + age))
        wait_until(lambda: not os.path.exists(_cache(lab, PLAIN)), "the large one is gone")
        wait_until(lambda: not os.path.exists(_cache(lab, ALICE)), "the oldest one is gone")
        assert os.path.exists(_cache(lab, BOB))
        assert os.path.exists(_cache(lab, CAROL))
    finally:
        for imap in open_ones:
            imap.__exit__(None, None, None)


def test_a_link_is_not_followed(memory_lab: Lab) -> None:
    """The owner of the mail may put anything there; nothing outside is removed."""
    lab = memory_lab
    victim = lab.place.path("victim")
    os.mkdir(victim)
    with open(os.path.join(victim, "file"), "w") as stream:
        stream.write("text")
    os.chmod(victim, 0o777)
    inside = os.path.dirname(os.path.dirname(_cache(lab, CAROL)))
    os.makedirs(inside, exist_ok=True)
    os.symlink(victim, os.path.join(inside, "link"))
    owner = os.stat(lab.place.quick_path("cache")).st_uid
    os.chown(inside, owner, owner)
    assert lab.mailseal("lock", CAROL).returncode == 0
    assert os.path.exists(os.path.join(victim, "file"))
    assert not os.path.lexists(os.path.join(inside, "link"))
