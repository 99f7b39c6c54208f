# SPDX-License-Identifier: MIT
"""Public keys for the checkpassword program: reads the store's files without expensive imports.

keys/public.py defines the store; mailseal.lua reads it in the same way, and a test compares all
three.  Importing json, re, hashlib and unicodedata would double the start time of the program
(12 ms).  So the file, which has only one valid form, is compared byte by byte.

CONTRACT
    look_up() returns None only if the user is certainly not enrolled.
    TemporaryError is raised for everything unexpected.
    LongName: the file name would be shortened and contain a hash; ask the agent.
"""

from __future__ import annotations

import os
import time

from mailseal.errors import TemporaryError

FOLDER_MARK = b"mailseal public keys, version 1\n"
REPLICA_MARK = b"mailseal public keys, replica, version 1\n"
ENROLL_MARK = "enroll-at-login"
_MAX_FILE_NAME = 200
_MAX_FILE = 16384
_SAFE = b"abcdefghijklmnopqrstuvwxyz0123456789@_+-."
_BEFORE_USER = b'{\n "format": "mailseal-public-key",\n "version": 1,\n "user": '
_BEFORE_ID = b',\n "key_id": "'
_BEFORE_SPKI = b'",\n "spki": "'
_END = b'"\n}\n'


class LongName(Exception):
    """The name is too long for this module."""


def look_up(folder: str, user: bytes) -> str | None:
    """The user's public key as a field for Dovecot 2.3, or None if certainly not enrolled."""
    lower = user.lower()  # of bytes: changes ASCII letters only, like keys/names.py
    name = file_name(lower)
    if len(name) > _MAX_FILE_NAME:
        raise LongName
    data = _read(f"{folder}/{name}.json")
    if data is None:
        _must_be_not_enrolled(folder, name)
        return None
    key = _key(data, lower)
    if key is None:
        raise TemporaryError(
            f"{folder}/{name}.json is damaged, or from a newer version of mailseal"
        )
    if lower != user:
        raise TemporaryError(
            "the user name has capital letters, and an enrolled user has the same name in lower "
            "case: auth_username_format must convert names to lower case"
        )
    return key


def enrolls_at_login(folder: str) -> bool:
    """Whether users are enrolled at their first login."""
    return os.path.exists(f"{folder}/{ENROLL_MARK}")


def file_name(user: bytes) -> str:
    """As keys/names.py, for short names."""
    return "".join(
        chr(byte) if byte in _SAFE and not (byte == 0x2E and at == 0) else f"%{byte:02x}"
        for at, byte in enumerate(user)
    )


def _must_be_not_enrolled(folder: str, name: str) -> None:
    # In this order: lease, mark, clock (keys/lease.py).
    mark = _read(f"{folder}/mailseal-public-keys") or b""
    try:
        os.stat(f"{folder}/enrolled/{name}")
    except FileNotFoundError:
        if not os.path.isdir(f"{folder}/enrolled"):
            raise TemporaryError(f"{folder} is not a folder of public keys") from None
        _must_be_current(folder, mark)
        return
    except OSError as exc:
        raise TemporaryError(f"cannot read {folder}/enrolled: {exc.strerror}") from None
    raise TemporaryError("the public key is missing", hint=f"run `mailseal repair {name}`")


def _must_be_current(folder: str, mark: bytes) -> None:
    if mark == FOLDER_MARK:
        return
    if not mark.startswith(REPLICA_MARK):
        raise TemporaryError(f"{folder} is not a folder of public keys")
    # BOOT-ID SECONDS, with two decimals and a line end: what is cut off is no lease.
    boot, _, until = mark[len(REPLICA_MARK) :].partition(b" ")
    boots = (_read("/proc/sys/kernel/random/boot_id") or b"").strip()
    whole = until[-1:] == b"\n" and until[-4:-3] == b"."
    if boot and boot == boots and whole and _uptime() < float(until):
        return
    raise TemporaryError(
        "the replica of the public keys is not current",
        hint="see `systemctl status mailseal-replica` on this host",
    )


def _uptime() -> float:
    """CLOCK_BOOTTIME of the machine, whatever time namespace this is."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    for line in (_read("/proc/self/timens_offsets") or b"").splitlines():
        words = line.split()
        if words[0] == b"boottime":
            now -= int(words[1]) + int(words[2]) / 1e9
    return now


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise TemporaryError(f"cannot read {path}: {exc.strerror}") from None
    try:
        return os.read(fd, _MAX_FILE)
    except OSError as exc:
        raise TemporaryError(f"cannot read {path}: {exc.strerror}") from None
    finally:
        os.close(fd)


def _key(data: bytes, user: bytes) -> str | None:
    try:
        start = _BEFORE_USER + _json_string(user.decode("utf-8")) + _BEFORE_ID
        if not data.startswith(start) or not data.endswith(_END):
            return None
        key_id, _, spki = data[len(start) : -len(_END)].partition(_BEFORE_SPKI)
        parts = [key_id.decode("ascii"), spki.decode("ascii")]
        if len(key_id) != 64 or not spki or any(bytes.fromhex(p).hex() != p for p in parts):
            return None
    except ValueError:
        return None
    return f"2:{parts[1]}:{parts[0]}"


def _json_string(text: str) -> bytes:
    """As json.dumps() does."""
    parts = []
    for letter in text:
        code = ord(letter)
        if letter in '"\\':
            parts.append("\\" + letter)
        elif code < 0x80:
            parts.append(letter)
        elif code < 0x10000:
            parts.append(f"\\u{code:04x}")
        else:
            rest = code - 0x10000
            parts.append(f"\\u{0xD800 + (rest >> 10):04x}\\u{0xDC00 + (rest & 0x3FF):04x}")
    return b'"' + "".join(parts).encode("ascii") + b'"'
