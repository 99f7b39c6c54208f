# SPDX-License-Identifier: MIT
"""`make bench` compares the right things: sealed mail is sealed, and can be read.

Nothing is measured here.
"""

from __future__ import annotations

import contextlib

import pytest

from mailseal.crypto.eckeys import PrivateKey
from tests.bench import (
    beside,
    converting,
    delivery,
    listing,
    oneshot,
    reading,
    recipients,
    verifying,
)
from tests.bench.peers import DovecotPeer, MailsealPeer
from tests.lab import full_text
from tests.lab.dovecot import installed_version
from tests.lab.place import LabError, Place


def test_the_servers_that_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "COUNT", 20)
    monkeypatch.setattr(oneshot, "COUNT", 1)
    monkeypatch.setattr(converting, "COUNT", 20)
    with contextlib.ExitStack() as last_first:
        place = Place.make()
        last_first.callback(place.remove)
        key = PrivateKey.generate()
        plain = DovecotPeer("plain", place, None)
        crypt = DovecotPeer("mail-crypt", place, key)
        reader = DovecotPeer("reader", place, key)
        seal = MailsealPeer("mailseal", place, place.copy_code(), key, reader)
        for peer in (plain, crypt, reader, seal):
            last_first.callback(peer.stop)
            peer.start()
        assert delivery.one_round(plain, 4096, 20) > 0
        with pytest.raises(LabError, match="not sealed"):
            reading.expect_sealed(plain)
        assert set(oneshot.run(seal)) == {"deliver_ms", "worker_mib"}
        told: list[str] = []
        seconds = reading.run(crypt, seal, reader, 1, told.append)
        assert list(seconds) == ["mail-crypt", "mailseal"]
        assert len(told) == 2
        rates = converting.run(crypt, key, told.append)
        assert set(rates) == {"cp_and_sync", "doveadm_copy", "mailseal_seal"}


def test_many_recipients(monkeypatch: pytest.MonkeyPatch) -> None:
    """LabError if a mail or a user is missing."""
    monkeypatch.setattr(recipients, "RECIPIENTS", 20)
    monkeypatch.setattr(recipients, "LOOKUPS", 5)
    monkeypatch.setattr(recipients, "_CACHED", 0)
    found = recipients.run(1, lambda _line: None)
    assert found["rates_in_use"].keys() == found["rates"].keys()
    assert {"plain", "dovecot_lua", "mailseal_lua"} <= set(found["rates"])
    assert set(found["lookup_ms"]) >= {"plain", "lua"}


def test_the_mails_that_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """LabError if not all mails were checked, or if there was a finding."""
    monkeypatch.setattr(verifying, "SMALL", 40)
    monkeypatch.setattr(verifying, "LARGE", 30)
    figures = verifying.run()
    assert all(found["mails_a_second"] > 0 for found in figures.values())


def test_what_is_measured_beside_the_sealer(monkeypatch: pytest.MonkeyPatch) -> None:
    """LabError if the sealer does nothing, or a mail is refused."""
    monkeypatch.setattr(beside, "OLD", 1)
    monkeypatch.setattr(beside, "MAILS", 200)
    monkeypatch.setattr(beside, "DELIVERIES", 20)
    monkeypatch.setattr(beside, "LOGINS", 2)
    figures = beside.run(1, lambda _line: None)
    assert all(figure > 0 for figure in figures.values()), figures


def test_index_benchmark(fscrypt: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """LabError if a listing is not complete, or a folder is not locked in between."""
    monkeypatch.setattr(listing, "MAILS", 60)
    monkeypatch.setattr(listing, "LOGINS", 1)
    figures = listing.run(1, lambda _line: None)
    names = [name for name in listing.GOALS if "full_text" not in name]
    assert {f"{kind}_{name}" for kind in ("sealed", "plain") for name in names} <= set(figures)
    assert {"login_locked", "lock"} <= set(figures) and figures["idle_memory"] == 0
    if not full_text.missing(installed_version()):
        assert {"sealed_full_text", "plain_full_text", "plain_cold_full_text"} <= set(figures)
