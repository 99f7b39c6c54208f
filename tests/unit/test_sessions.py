# SPDX-License-Identifier: MIT
"""Sessions end at the right time, and only the right password can use them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mailseal.crypto.eckeys import CURVES, PrivateKey
from mailseal.keys.stores import Revision
from mailseal.login.mailcrypt_fields import login_fields
from mailseal.login.sessions import MAX_PASSWORDS, Sessions

REVISION = Revision("1-2-3")
KEYS = (PrivateKey.generate("prime256v1"), PrivateKey.generate("secp521r1"))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(idle=60, absolute=300, clock=clock)


def begin(sessions: Sessions, user: str = "alice", password: bytes = b"pw") -> bytes:
    mac = sessions.mac(user, password)
    sessions.start(user, mac, REVISION, KEYS, "abc")
    return mac


def test_found_with_the_same_password(sessions: Sessions) -> None:
    mac = begin(sessions)
    found = sessions.find("alice", mac, REVISION)
    assert found is not None and found[1] == "abc"
    assert [key.scalar for key in found[0].private_keys()] == [key.scalar for key in KEYS]


def test_not_found_with_another_password_or_user(sessions: Sessions) -> None:
    mac = begin(sessions)
    assert sessions.find("alice", sessions.mac("alice", b"other"), REVISION) is None
    assert sessions.find("bob", sessions.mac("bob", b"pw"), REVISION) is None
    assert sessions.find("alice", sessions.mac("bob", b"pw"), REVISION) is None
    assert sessions.find("alice", mac, REVISION) is not None, (
        "a wrong password must not end a session"
    )


def test_user_and_password_cannot_run_into_each_other(sessions: Sessions) -> None:
    assert sessions.mac("ab", b"c") != sessions.mac("a", b"bc")


def test_another_process_has_another_mac() -> None:
    one, two = Sessions(idle=1, absolute=1), Sessions(idle=1, absolute=1)
    assert one.mac("alice", b"pw") != two.mac("alice", b"pw")


def test_idle_time(sessions: Sessions, clock: Clock) -> None:
    mac = begin(sessions)
    clock.now += 59
    assert sessions.find("alice", mac, REVISION)
    clock.now += 59
    assert sessions.find("alice", mac, REVISION), "a login restarts the idle time"
    clock.now += 60
    assert sessions.find("alice", mac, REVISION) is None
    assert len(sessions) == 0


def test_absolute_time(sessions: Sessions, clock: Clock) -> None:
    mac = begin(sessions)
    for _ in range(5):
        clock.now += 59
        assert sessions.find("alice", mac, REVISION)
    clock.now += 5
    assert sessions.find("alice", mac, REVISION) is None


def test_a_second_password_does_not_make_a_session_younger(
    sessions: Sessions, clock: Clock
) -> None:
    begin(sessions)
    for number in range(5):
        clock.now += 59
        mac = begin(sessions, password=b"app %d" % number)
    assert sessions.find("alice", mac, REVISION)
    clock.now += 5
    assert sessions.find("alice", mac, REVISION) is None


def test_expire_wipes(sessions: Sessions, clock: Clock) -> None:
    mac = begin(sessions)
    found = sessions.find("alice", mac, REVISION)
    assert found is not None
    secret = found[0].secret
    clock.now += 60
    assert sessions.expire() == ["alice"]
    assert not any(secret)


def test_a_changed_keyring_file_ends_the_session(sessions: Sessions) -> None:
    mac = begin(sessions)
    assert sessions.find("alice", mac, Revision("another")) is None
    assert sessions.find("alice", mac, REVISION) is None, "the session is gone"
    mac = begin(sessions)
    assert sessions.find("alice", mac, None) is None, "nor without a keyring file"


def test_end_and_end_all_wipe(sessions: Sessions) -> None:
    secrets = []
    for user in ("alice", "bob"):
        session = sessions.start(user, sessions.mac(user, b"pw"), REVISION, KEYS, "abc")
        secrets.append(session.secret)
    assert sessions.end("alice") and not sessions.end("alice")
    assert not any(secrets[0]) and any(secrets[1])
    assert sessions.end_all() == 1
    assert not any(secrets[1])


def test_several_passwords_up_to_a_limit(sessions: Sessions) -> None:
    macs = [begin(sessions, password=b"%d" % n) for n in range(MAX_PASSWORDS + 1)]
    assert sessions.find("alice", macs[0], REVISION) is None
    assert all(sessions.find("alice", mac, REVISION) for mac in macs[1:])
    assert len(sessions) == 1


def test_age(sessions: Sessions, clock: Clock) -> None:
    assert sessions.age("alice") is None
    begin(sessions)
    clock.now += 10
    assert sessions.age("alice") == (10, 10)


def test_a_login_computes_no_point(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """With twenty pairs it would take milliseconds on the agent's event loop."""
    keys = [PrivateKey.generate(curve) for curve in CURVES for _ in range(2)]
    mac = sessions.mac("alice", b"pw")
    sessions.start("alice", mac, REVISION, keys, "abc")
    found = sessions.find("alice", mac, REVISION)
    assert found is not None
    with monkeypatch.context() as without:
        without.setattr(ec, "derive_private_key", None)
        without.setattr(serialization, "load_der_public_key", None)
        fields = dict(login_fields("2.3", found[0].private_keys()))
    password = fields["mail_crypt_global_private_key_password"].encode()
    wrapped = [text for text in fields.values() if ":aes-256-ctr:" in text]
    opened = [PrivateKey.parse(text, password) for text in wrapped]
    assert [key.scalar for key in opened] == [key.scalar for key in reversed(keys)]
    seen = found[0].private_keys()
    assert [key.public.key.public_numbers() for key in seen] == [
        key.key.public_key().public_numbers() for key in keys
    ]
