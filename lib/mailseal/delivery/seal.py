# SPDX-License-Identifier: MIT
"""One recipient's copy of a mail: trace headers, sealed, written into tmp/ of the Maildir.

    staged = seal_into(maildir, key, envelope, recipient, message, …)
    maildir.commit([staged])

Plaintext exists in memory only, and only the pieces that came in: what is
written is ciphertext from the first byte on.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator

from mailseal.crypto.dcrypt import MessageSecret, Sealer
from mailseal.crypto.eckeys import PublicKey
from mailseal.delivery.lmtp_syntax import Address
from mailseal.delivery.message import Envelope, Message, trace_headers
from mailseal.mailbox import maildir
from mailseal.mailbox.maildir import Staged

AT_ONCE = 256 * 1024
"""Mails up to this size, in bytes, are sealed and written in one piece."""


class SecretPool:
    """Message secrets made ahead of time, when there is nothing else to do.

    A secret with its check hash takes 0.55 ms, which is most of the work of
    sealing a small mail.  The pool belongs to one process: a copy after fork()
    would use the same secrets twice, so it is made after forking.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._ready: collections.deque[MessageSecret] = collections.deque()

    def take(self) -> MessageSecret:
        """A secret made ahead, or else a fresh one."""
        try:
            return self._ready.popleft()
        except IndexError:
            return MessageSecret.new()

    @property
    def wanting(self) -> bool:
        """Whether there are fewer than there should be."""
        return len(self._ready) < self.size

    def add_one(self) -> None:
        """Make one ahead."""
        self._ready.append(MessageSecret.new())


def seal_into(
    folder: str,
    key: PublicKey,
    envelope: Envelope,
    recipient: Address,
    message: Message,
    *,
    sizes: str,
    secret: MessageSecret | None = None,
) -> Staged:
    """Seal and stage one copy.  `sizes` is delivery.sizes.  Raises as maildir.stage()."""
    headers = trace_headers(envelope, recipient)
    with_lf, stored, with_crlf = message.stored_sizes()
    with_crlf += len(headers)
    if with_lf:
        headers = headers.replace(b"\r\n", b"\n")
    stored += len(headers)
    suffix = {"S,W": f",S={stored},W={with_crlf}", "S": f",S={stored}", "none": ""}[sizes]
    sealer = Sealer(key, secret=secret)
    if stored <= AT_ONCE:
        text = b"".join((headers, *message.stored()))
        sealed = b"".join((sealer.header, sealer.update(text), sealer.finish()))
        return maildir.stage(folder, (sealed,), suffix)
    return maildir.stage(folder, _sealed_pieces(sealer, headers, message), suffix)


def _sealed_pieces(sealer: Sealer, headers: bytes, message: Message) -> Iterator[bytes]:
    yield sealer.header
    yield sealer.update(headers)
    for piece in message.stored():
        yield sealer.update(piece)
    yield sealer.finish()
