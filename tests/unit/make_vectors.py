# SPDX-License-Identifier: MIT
"""Makes vectors/formats.json again: `python -m tests.unit.make_vectors`.

Run it only if a format and its version change: existing vectors must always stay readable.
Each vector is valid or has exactly one fault.  Checksums that include the fault are right,
so that only the tested check can detect it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mailseal.crypto import dcrypt, kdf
from mailseal.crypto.eckeys import PrivateKey
from mailseal.keys import backup, keyring_file
from mailseal.keys.keyring import Opened
from mailseal.keys.public import encode
from mailseal.keys.slot import tag_of
from mailseal.keys.slots import UnknownSlot

FILE = Path(__file__).parent / "vectors" / "formats.json"
USER = "alice@example.org"
PASSWORD = b"correct horse battery staple"
MAIL = b"Subject: vector\n\nsealed by mailseal\n"

Vector = dict[str, Any]


def flipped(data: bytes, at: int) -> bytes:
    """Change one bit."""
    at %= len(data)
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def sealed_mail() -> Iterator[Vector]:
    key = PrivateKey.generate()
    good = dcrypt.seal(key.public, MAIL)
    header = int.from_bytes(good[14:18], "big")
    cases = {
        "": (good, "ok"),
        "magic": (flipped(good, 8), "NotSealed"),
        "version": (flipped(good, 9), "Damaged"),
        "cut in the header": (good[: header - 1], "Damaged"),
        "cut in the ciphertext": (good[: header + 5], "Damaged"),
        "tag missing": (good[:-16], "Damaged"),
        "tag: one bit": (flipped(good, -1), "Damaged"),
        "ciphertext: one bit": (flipped(good, header), "Damaged"),
        "one byte behind the tag": (good + b"x", "Damaged"),
        "key id: one bit": (flipped(good, 50), "NoKey"),
        "wrapped secret: one bit": (flipped(good, header - 4 - 32 - 1), "Damaged"),
        "check hash: one bit": (flipped(good, header - 1), "Damaged"),
    }
    for fault, (data, result) in cases.items():
        yield {
            "format": "sealed mail",
            "fault": fault,
            "result": result,
            "private key": key.dovecot_string(),
            "hex": data.hex(),
            "mail": MAIL.decode(),
        }


def public_keys() -> Iterator[Vector]:
    key, other = PrivateKey.generate().public, PrivateKey.generate().public
    good = encode(USER, key)

    def changed(**fields: Any) -> bytes:
        return json.dumps({**json.loads(good), **fields}, indent=1).encode() + b"\n"

    cases = {
        "": (good, "ok"),
        "another user's": (encode("bob@example.org", key), "Damaged"),
        "key id of another key": (changed(key_id=other.key_id.hex()), "Damaged"),
        "newer version": (changed(version=2), "NewerFormat"),
        "another format": (changed(format="mailseal-keyring"), "Damaged"),
        "a field too many": (changed(extra=""), "Damaged"),
        "key cut short": (changed(spki=key.spki[:-1].hex()), "Damaged"),
        "hex in capitals": (changed(spki=key.spki.hex().upper()), "Damaged"),
        "line end missing": (good[:-1], "Damaged"),
        "cut short": (good[:-20], "Damaged"),
    }
    for fault, (data, result) in cases.items():
        yield {
            "format": "public key",
            "fault": fault,
            "result": result,
            "text": data.decode(),
            "key id": key.key_id.hex(),
        }


def make_keyring() -> Opened:
    opened = Opened.create(USER, curve="prime256v1", now=1_700_000_000)
    opened.set_login(PASSWORD, kdf.PROFILES["insecure-testing"], now=1_700_000_000)
    opened.add_key("prime256v1", now=1_700_000_001)
    return opened


def keyrings() -> Iterator[Vector]:
    opened = make_keyring()
    good = opened.keyring.encode()

    def with_digest(content: dict[str, Any]) -> bytes:
        content["digest"] = keyring_file.digest(content)
        return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"

    def changed(**fields: Any) -> bytes:
        return with_digest({**json.loads(good), **fields})

    def in_slot(**fields: Any) -> bytes:
        (slot,) = json.loads(good)["slots"]
        return changed(slots=[{**slot, **fields}])

    def in_key(name: str) -> bytes:
        keys = json.loads(good)["keys"]
        keys[0][name] = flipped(bytes.fromhex(keys[0][name]), 0).hex()
        return changed(keys=keys)

    content = json.loads(good)
    (slot,) = content["slots"]
    future = UnknownSlot(
        "zzz",
        "hardware",
        "",
        1,
        b"",
        {"id": "zzz", "kind": "hardware", "label": "", "created": 1, "credential": "00", "tag": ""},
    )
    with_future = dataclasses.replace(
        opened.keyring,
        slots=(*opened.keyring.slots, future.with_tag(tag_of(opened._master, USER, future))),
    )
    unknown = json.loads(with_future.encode())["slots"]
    cases = {
        "": (good, "ok"),
        "no fault: a slot of a kind from a newer version": (with_future.encode(), "ok"),
        "that slot: one byte": (
            changed(slots=[unknown[0], {**unknown[1], "credential": "01"}]),
            "Damaged",
        ),
        "digest": (good.replace(b'"revision": ', b'"revision": 1'), "Damaged"),
        "newer version": (changed(version=2), "NewerFormat"),
        "another user's": (changed(user="bob@example.org"), "Damaged"),
        "a field too many": (changed(extra=""), "Damaged"),
        "another spelling": (
            json.dumps(json.loads(good), sort_keys=True).encode() + b"\n",
            "Damaged",
        ),
        "line end missing": (good[:-1], "Damaged"),
        "keys in another order": (changed(keys=content["keys"][::-1]), "Damaged"),
        "a key dropped": (changed(keys=content["keys"][1:]), "Damaged"),
        "keys tag: one bit": (
            changed(keys_tag=flipped(bytes.fromhex(content["keys_tag"]), 0).hex()),
            "Damaged",
        ),
        "sealed key: one bit": (in_key("sealed"), "Damaged"),
        "no slot": (changed(slots=[]), "Damaged"),
        "two slots with one id": (changed(slots=[slot, slot]), "Damaged"),
        "slot's label": (in_slot(label="phone"), "Damaged"),
        "slot's tag: one bit": (
            in_slot(tag=flipped(bytes.fromhex(slot["tag"]), 0).hex()),
            "Damaged",
        ),
        "slot's wrap: one bit": (
            in_slot(wrapped=flipped(bytes.fromhex(slot["wrapped"]), 0).hex()),
            "Damaged",
        ),
        "slot's check value: one bit": (
            in_slot(check=flipped(bytes.fromhex(slot["check"]), 0).hex()),
            "WrongPassword",
        ),
    }
    for fault, (data, result) in cases.items():
        yield {
            "format": "keyring",
            "fault": fault,
            "result": result,
            "password": PASSWORD.decode(),
            "text": data.decode(),
            "key ids": [key.key_id.hex() for key in opened.keys],
        }


def backups() -> Iterator[Vector]:
    good = backup.encode({USER: make_keyring().keyring.encode()}, created=1_700_000_002)
    lines = good.splitlines(keepends=True)

    def closed(*body: bytes, users: int = 1) -> bytes:
        end = {"users": users, "sha256": hashlib.sha256(b"".join(body)).hexdigest()}
        return b"".join(body) + json.dumps(end).encode() + b"\n"

    entry = json.loads(lines[1])
    damaged = {**entry, "keyring": entry["keyring"].replace('"revision": ', '"revision": 1')}
    cases = {
        "": (good, "ok"),
        "checksum": (good.replace(b'"created"', b'"creatEd"', 1), "Damaged"),
        "number of users": (closed(*lines[:2], users=2), "Damaged"),
        "last line missing": (b"".join(lines[:2]), "Damaged"),
        "line end missing": (good[:-1], "Damaged"),
        "newer version": (closed(lines[0].replace(b": 1,", b": 2,"), lines[1]), "NewerFormat"),
        "a damaged keyring": (closed(lines[0], json.dumps(damaged).encode() + b"\n"), "Damaged"),
        "no keyring in a line": (closed(lines[0], b'{"user": "bob"}\n'), "Damaged"),
    }
    for fault, (data, result) in cases.items():
        yield {
            "format": "backup",
            "fault": fault,
            "result": result,
            "text": data.decode(),
            "users": [USER],
        }


def lines() -> Iterator[Vector]:
    cases = {
        "": ("unlock user=616c696365 empty=\n", "ok"),
        "hex in capitals": ("unlock user=616C696365\n", "UsageError"),
        "half a byte": ("unlock user=616\n", "UsageError"),
        "a field twice": ("unlock user=61 user=61\n", "UsageError"),
        "no value": ("unlock user\n", "UsageError"),
        "no name": ("unlock =61\n", "UsageError"),
        "two spaces": ("unlock  user=61\n", "UsageError"),
        "space at the end": ("unlock user=61 \n", "UsageError"),
        "no verb": (" user=61\n", "UsageError"),
        "verb is no word": ("un-lock user=61\n", "UsageError"),
        "not ASCII": ("unlock user=61 \u00e4=61\n", "UsageError"),
    }
    for fault, (text, result) in cases.items():
        yield {"format": "line", "fault": fault, "result": result, "text": text}


if __name__ == "__main__":
    made = [*sealed_mail(), *public_keys(), *keyrings(), *backups(), *lines()]
    FILE.write_text(json.dumps(made, indent=1) + "\n")
