# SPDX-License-Identifier: MIT
"""Strict JSON: all invalid content raises Damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import Damaged, NewerFormat
from mailseal.keys import backup, record
from mailseal.keys.keyring import Keyring
from mailseal.keys.keystore import Keystore
from mailseal.keys.public import PublicStore

USER = "alice@example.org"
ODD = {
    "nothing": b"",
    "half": b'{"format": ',
    "deep": b"[" * 100_000,
    "twice": b'{"format": "f", "format": "f"}',
    "nan": b'{"format": NaN}',
    "latin-1": b'{"format": "\xe9"}',
    "list": b"[1]",
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_invalid_json_is_damaged(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(Damaged):
        record.read(data, "f", 1, {"format"})
    with pytest.raises(Damaged):
        Keyring.parse(data, USER)
    with pytest.raises(Damaged):
        backup.parse(data)
    public = PublicStore(str(tmp_path / "public"))
    public.prepare()
    public.publish(USER, PrivateKey.generate().public)
    (tmp_path / "public" / f"{USER}.json").write_bytes(data)
    with pytest.raises(Damaged, match="public key of alice"):
        public.lookup(USER)
    assert public.users() == [USER]


def test_a_long_name_in_an_odd_file_stops_no_listing(tmp_path: Path) -> None:
    store = Keystore(str(tmp_path / "keys"))
    store.prepare()
    for number, data in enumerate(ODD.values()):
        (tmp_path / "keys" / f"={number:064x}.json").write_bytes(data)
    assert store.users() == []


@pytest.mark.parametrize("version", [0, True, "1", None])
def test_another_version_is_damaged_and_a_later_one_newer(version: object) -> None:
    assert not record.is_of({"format": "f", "version": version}, "f", 1)
    with pytest.raises(NewerFormat, match="has format version 2, this mailseal reads up to 1"):
        record.is_of({"format": "f", "version": 2}, "f", 1)


@pytest.mark.parametrize("text", ["\ud800", 5, None, []])
def test_a_backup_whose_keyring_is_no_text(text: object) -> None:
    lines = [
        {"format": "mailseal-backup", "version": 1, "created": 1},
        {"user": "alice@example.org", "keyring": text},
    ]
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    end = {"users": 1, "sha256": hashlib.sha256(body).hexdigest()}
    with pytest.raises(Damaged):
        backup.parse(body + json.dumps(end).encode() + b"\n")
