# SPDX-License-Identifier: MIT
"""The forms that stored mail is converted to: sealed, in clear, or sealed to another key.

    form = Seal(public)                  # or Unseal(keys), Reseal(public, keys)
    work = form.work(start)              # None: it already has this form

FAILURES
    work() raises NoKey or Damaged for a mail that cannot be converted.
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
    """How one mail is converted."""

    plain: Callable[[BinaryIO], Iterator[bytes]]
    """The plaintext of the old file, verified as far as this is possible.  Called twice: to write
    the new file, and to compare it."""
    form: Callable[[Iterator[bytes]], Iterator[bytes | memoryview]]
    """The content of the new file for that plaintext."""
    check: Callable[[BinaryIO], Iterator[bytes]]
    """The plaintext of the new file, read back from the disk.  Raises Damaged."""


class Form(Protocol):
    """A form that mails are converted to."""

    def work(self, start: bytes) -> Work | None:
        """The work for a mail that begins with `start` (its first dcrypt.MAX_HEADER bytes, or all).

        None if it has the wanted form.  Raises NoKey or Damaged if it cannot be
        converted.
        """
        ...


class Seal:
    """Seals mail that is in clear.  Sealed mail is not changed."""

    def __init__(self, public: PublicKey, own: Iterable[bytes] = ()) -> None:
        """`own`: ids of the user's older key pairs, if they are known."""
        self._public = public
        self._own = frozenset((public.key_id, *own))

    def work(self, start: bytes) -> Work | None:
        """See Form.  Raises NoKey for mail that is sealed to a key of somebody else."""
        if not start:
            return None  # Dovecot stores an empty mail as an empty file
        if dcrypt.is_sealed(start):
            found = dcrypt.inspect(start)
            if self._own.isdisjoint(found.key_ids):
                raise NoKey(f"sealed to another key: {found.key_ids[0].hex()[:16]}")
            return None
        return _to(self._public, _pieces)


class Unseal:
    """Stores sealed mail in clear.  Needs the private keys."""

    def __init__(self, keys: Sequence[PrivateKey]) -> None:
        self._keys = keys

    def work(self, start: bytes) -> Work | None:
        """See Form."""
        if not dcrypt.is_sealed(start):
            return None
        dcrypt.inspect(start)
        return Work(dcrypt.Opening(self._keys).pieces, _as_it_is, _pieces)


class Reseal:
    """Seals with `public` the mail that is sealed to one of `keys` or is in clear."""

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
        return _to(self._public, dcrypt.Opening(self._keys).pieces)


def _to(public: PublicKey, plain: Callable[[BinaryIO], Iterator[bytes]]) -> Work:
    sealing = dcrypt.Sealing(public)
    return Work(plain, sealing.pieces, sealing.read_back)


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    source.seek(0)
    while piece := source.read(_PIECE):
        yield piece
        if len(piece) < _PIECE:
            return


def _as_it_is(pieces: Iterator[bytes]) -> Iterator[bytes]:
    return pieces
