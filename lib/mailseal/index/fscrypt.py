# SPDX-License-Identifier: MIT
"""fscrypt, the file encryption of ext4 and f2fs: the ioctls for keys and policies, version 2.

A key is added to a file system, and opens all folders whose policy has its identifier.  The kernel
computes the identifier (16 bytes) from the key.  Keys belong to the uid that has added them.  They
stay until that uid removes them, the file system is unmounted, or the machine stops, even if the
process has ended.  All calls need a descriptor of any folder on the file system.

Measured with Linux 6.18 and ext4, as a uid that is not root:
    add_key()      0.03 ms.  EDQUOT beyond kernel.keys.maxkeys (200) or maxbytes (20,000) of the uid
    remove_key()   3.5 ms with 300 files, 13 ms with Dovecot's index of 2,000 mails.  It first
                   writes out the whole file system: see sync()
    set_policy()   only on an empty folder, by its owner, with a key that the caller has added
A folder without its key: names are listed as ciphertext, unlink and rename of the folder itself
work, everything else fails with ENOKEY.

FAILURES
    Unsupported: the kernel or the file system has no fscrypt.  OSError: other failures.

Source: Linux, Documentation/filesystems/fscrypt.rst and include/uapi/linux/fscrypt.h.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import fcntl
import os
import struct

KEY_SIZE = 64
"""Size in bytes of a key for AES-256-XTS."""

IDENTIFIER_SIZE = 16


class Unsupported(OSError):
    """There is no fscrypt in the kernel or the file system, or it is not turned on."""


class State(enum.Enum):
    """The state of a key in the kernel."""

    ABSENT = 1
    PRESENT = 2
    BUSY = 3
    """Removed, but files that were open at that time can still be read through their
    descriptors, until they are closed and remove_key() is called again."""


# Without the ioctl; without the feature: EOPNOTSUPP.
_NONE = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS)

_SPECIFIER = struct.Struct("=II32s")  # type, reserved, identifier
_BY_IDENTIFIER = 2
_ADD = struct.Struct("=40sII32x")  # specifier, raw_size, key_id; the key follows
_REMOVE = struct.Struct("=40sI20x")  # specifier, flags that the kernel returns
_STATUS = struct.Struct("=40s24xIII52x")  # specifier; status, flags and users are returned
_POLICY = struct.Struct("=BBBBB3x16s")
_POLICY_EX = struct.Struct("=Q24s")  # size of the policy, policy
_V2, _AES_256_XTS, _AES_256_CTS, _PAD_32 = 2, 1, 4, 3
_FILES_BUSY = 1


def _request(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("f") << 8 | number


_SET_POLICY = _request(2, 19, 12)  # the size is that of version 1
_GET_POLICY_EX = _request(3, 22, 9)
_ADD_KEY = _request(3, 23, _ADD.size)
_REMOVE_KEY = _request(3, 24, _REMOVE.size)
_KEY_STATUS = _request(3, 26, _STATUS.size)

_libc = ctypes.CDLL(None, use_errno=True)


def add_key(fd: int, key: bytes | bytearray) -> bytes:
    """Add a key of KEY_SIZE bytes to the kernel; returns its identifier.  It may exist already."""
    arg = bytearray(_ADD.pack(_SPECIFIER.pack(_BY_IDENTIFIER, 0, b""), len(key), 0)) + key
    try:
        _ioctl(fd, _ADD_KEY, arg)
        return bytes(arg[8 : 8 + IDENTIFIER_SIZE])
    except OSError as exc:
        if exc.errno != errno.EDQUOT:
            raise
        text = "the kernel takes no more keys of this user, see kernel.keys.maxkeys"
        raise OSError(errno.EDQUOT, text) from None
    finally:
        arg[_ADD.size :] = bytes(len(key))


def remove_key(fd: int, identifier: bytes) -> State:
    """Remove the key and lock all files that are not open; returns ABSENT or BUSY."""
    arg = bytearray(_REMOVE.pack(_specifier(identifier), 0))
    try:
        _ioctl(fd, _REMOVE_KEY, arg)
    except OSError as exc:
        if exc.errno == errno.ENOKEY:
            return State.ABSENT
        raise
    return State.BUSY if _REMOVE.unpack(arg)[1] & _FILES_BUSY else State.ABSENT


def state(fd: int, identifier: bytes) -> State:
    """Whether the kernel has the key."""
    arg = bytearray(_STATUS.pack(_specifier(identifier), 0, 0, 0))
    _ioctl(fd, _KEY_STATUS, arg)
    return State(_STATUS.unpack(arg)[1])


def policy(fd: int) -> bytes | None:
    """The identifier of the key of this folder; None if the folder is not encrypted."""
    arg = bytearray(_POLICY_EX.pack(24, b""))
    try:
        _ioctl(fd, _GET_POLICY_EX, arg)
    except OSError as exc:
        if exc.errno == errno.ENODATA:
            return None
        raise
    version, *_, identifier = _POLICY.unpack(_POLICY_EX.unpack(arg)[1])
    return bytes(identifier) if version == _V2 else b""


def set_policy(fd: int, identifier: bytes) -> None:
    """Encrypt an empty folder; all files that are made in it are encrypted too."""
    _ioctl(
        fd,
        _SET_POLICY,
        bytearray(_POLICY.pack(_V2, _AES_256_XTS, _AES_256_CTS, _PAD_32, 0, identifier)),
    )


def sync(fd: int) -> None:
    """Write the file system to disk, so that remove_key() has little to write."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _specifier(identifier: bytes) -> bytes:
    return _SPECIFIER.pack(_BY_IDENTIFIER, 0, identifier)


def _ioctl(fd: int, request: int, arg: bytearray) -> None:
    try:
        fcntl.ioctl(fd, request, arg, True)
    except OSError as exc:
        if exc.errno in _NONE:
            raise Unsupported(exc.errno, "no fscrypt here") from None
        raise
