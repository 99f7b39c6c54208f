# SPDX-License-Identifier: MIT
"""The formats of docs/formats.md: examples that are valid, and examples with one fault each.

Stored data must always stay readable: vectors are added, never changed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import MailsealError
from mailseal.keys import backup
from mailseal.keys.keyring import Keyring
from mailseal.keys.public import PublicStore
from mailseal.login import protocol

USER = "alice@example.org"
VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vectors" / "formats.json").read_text()
)


def read_sealed_mail(vector: dict[str, Any], folder: Path) -> None:
    stream = io.BytesIO(bytes.fromhex(vector["hex"]))
    key = PrivateKey.parse(vector["private key"])
    assert b"".join(dcrypt.open_sealed(stream, [key])) == vector["mail"].encode()


def read_public_key(vector: dict[str, Any], folder: Path) -> None:
    store = PublicStore(str(folder))
    store.prepare()
    (folder / f"{USER}.json").write_text(vector["text"])
    key = store.lookup(USER)
    assert key is not None and key.key_id.hex() == vector["key id"]


def read_keyring(vector: dict[str, Any], folder: Path) -> None:
    opened = Keyring.parse(vector["text"].encode(), USER).unlock(vector["password"].encode())
    assert [key.key_id.hex() for key in opened.keys] == vector["key ids"]


def read_backup(vector: dict[str, Any], folder: Path) -> None:
    assert list(backup.parse(vector["text"].encode())) == vector["users"]


def read_line(vector: dict[str, Any], folder: Path) -> None:
    word, fields = protocol.decode(vector["text"].encode())
    assert protocol.encode(word, fields) == vector["text"].encode()


READERS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "sealed mail": read_sealed_mail,
    "public key": read_public_key,
    "keyring": read_keyring,
    "backup": read_backup,
    "line": read_line,
}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['format']}: {v['fault'] or 'valid'}")
def test_vector(vector: dict[str, Any], tmp_path: Path) -> None:
    result = "ok"
    try:
        READERS[vector["format"]](vector, tmp_path)
    except MailsealError as exc:
        result = type(exc).__name__
    assert result == vector["result"]


def test_each_format_has_valid_and_faulty_ones() -> None:
    for name in READERS:
        results = [vector["result"] for vector in VECTORS if vector["format"] == name]
        assert "ok" in results and len(results) > 7, name
