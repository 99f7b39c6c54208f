# SPDX-License-Identifier: MIT
"""What stored mail is to become: sealed, plain, or sealed to another key.

    form = Seal(public)                  # or Unseal(keys), Reseal(public, keys)
    work = form.work(start)              # None: it is in this form already

FAILURES
    work() raises NoKey or Damaged for a mail that cannot be brought there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, Protocol

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import PrivateKey, PublicKey
from mailseal.errors import NoKey

_PIECE = 1 << 18


@dataclasses.dataclass(frozen=True)
class Work:
    """How one mail becomes its new form."""

    plain: Callable[[BinaryIO], Iterator[bytes]]
    """The plaintext of the old form, checked as far as that can be."""
    form: Callable[[Iterator[bytes]], Iterator[bytes | memoryview]]
    """What is to be written for that plaintext."""
    check: Callable[[BinaryIO], Iterator[bytes]]
    """The plaintext of the new form, read back from the disk.  Raises Damaged."""


class Form(Protocol):
    """What mails are to become."""

    def work(self, start: bytes) -> Work | None:
        """For a mail that begins with `start` (dcrypt.MAX_HEADER bytes of it, or all).

        None if it is in the wanted form.  Raises NoKey or Damaged if it cannot be
        brought there.
        """
        ...


class Seal:
    """Plain mail is sealed to a public key.  Sealed mail stays."""

    def __init__(self, public: PublicKey, own: Iterable[bytes] = ()) -> None:
        """`own`: ids of the user's older key pairs, as far as they are known."""
        self._public = public
        self._own = frozenset((public.key_id, *own))

    def work(self, start: bytes) -> Work | None:
        """See Form.  Raises NoKey for mail that is sealed to a key of somebody else."""
        if not start:
            return None  # Dovecot keeps an empty message as an empty file
        if dcrypt.is_sealed(start):
            found = dcrypt.inspect(start)
            if self._own.isdisjoint(found.key_ids):
                raise NoKey(f"sealed to another key: {found.key_ids[0].hex()[:16]}")
            return None
        return _to(self._public, _pieces)


class Unseal:
    """Sealed mail is stored plain.  Needs the private keys."""

    def __init__(self, keys: Sequence[PrivateKey]) -> None:
        self._keys = keys

    def work(self, start: bytes) -> Work | None:
        """See Form."""
        if not dcrypt.is_sealed(start):
            return None
        dcrypt.inspect(start)
        return Work(lambda old: dcrypt.open_sealed(old, self._keys), _as_it_is, _pieces)


class Reseal:
    """Mail sealed to one of `keys` is sealed to `public`.  Plain mail is sealed too."""

    def __init__(self, public: PublicKey, keys: Sequence[PrivateKey]) -> None:
        self._seal = Seal(public)
        self._public = public
        self._keys = keys

    def work(self, start: bytes) -> Work | None:
        """See Form."""
        if not dcrypt.is_sealed(start):
            return self._seal.work(start)
        if self._public.key_id in dcrypt.inspect(start).key_ids:
            return None
        return _to(self._public, lambda old: dcrypt.open_sealed(old, self._keys))


def _to(public: PublicKey, plain: Callable[[BinaryIO], Iterator[bytes]]) -> Work:
    sealing = dcrypt.Sealing(public)
    return Work(plain, sealing.pieces, sealing.read_back)


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    source.seek(0)
    while piece := source.read(_PIECE):
        yield piece


def _as_it_is(pieces: Iterator[bytes]) -> Iterator[bytes]:
    return pieces
