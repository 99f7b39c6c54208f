# SPDX-License-Identifier: MIT
"""The checkpassword program's own reader of public keys, which imports little."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from mailseal.crypto.eckeys import PrivateKey
from mailseal.errors import TemporaryError
from mailseal.keys.public import PublicStore
from mailseal.login import local_keys

KEY = PrivateKey.generate().public


def test_the_local_store_is_read_as_the_agent_writes_it(tmp_path: Path) -> None:
    folder = str(tmp_path)
    store = PublicStore(folder)
    with pytest.raises(TemporaryError):
        local_keys.look_up(folder, b"alice")
    store.prepare()
    names = [
        "alice",
        "a b@x",
        'q"\\@x',
        "gr\u00fc\u00dfe@x",
        "\U0001f511@x",
        ".",
        "..",
        "%2e",
        "a/b",
        "~",
    ]
    names += ["a&b@x", "x" * 200, "%" * 66]
    for name in names:
        assert local_keys.look_up(folder, name.encode()) is None
        store.publish(name, KEY)
        assert local_keys.look_up(folder, name.encode()) == KEY.dovecot_string()
    for name in ["x" * 201, "%" * 67, "x" * 254]:
        with pytest.raises(local_keys.LongName):
            local_keys.look_up(folder, name.encode())
    store.suspend("alice")
    with pytest.raises(TemporaryError, match="missing"):
        local_keys.look_up(folder, b"alice")
    store.withdraw("alice")
    assert local_keys.look_up(folder, b"alice") is None
    os.unlink(tmp_path / "mailseal-public-keys")
    with pytest.raises(TemporaryError):
        local_keys.look_up(folder, b"alice")


@pytest.mark.parametrize("at", range(0, 330, 7))
def test_no_changed_byte_of_a_key_file_passes(tmp_path: Path, at: int) -> None:
    store = PublicStore(str(tmp_path))
    store.prepare()
    store.publish("alice", KEY)
    path = tmp_path / "alice.json"
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0x21
    path.write_bytes(data)
    with contextlib.suppress(TemporaryError):
        # a hex digit may be another one now: the key is invalid, and Dovecot reports it
        assert local_keys.look_up(str(tmp_path), b"alice") != KEY.dovecot_string()
