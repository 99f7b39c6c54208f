# SPDX-License-Identifier: MIT
"""Seals one recipient's copy of a mail and writes it to tmp/ of the Maildir.

    staged = seal_into(maildir, key, envelope, recipient, message, …)
    maildir.store([staged])

The clear mail is in memory only; all bytes that are written are ciphertext.
"""

from __future__ import annotations

import collections

from mailseal.crypto import dcrypt
from mailseal.crypto.eckeys import Curve, PublicKey
from mailseal.crypto.message_secret import MessageSecret
from mailseal.delivery.lmtp.syntax import Address
from mailseal.delivery.message import Envelope, Message, Stored, trace_headers
from mailseal.mailbox import maildir
from mailseal.mailbox.maildir import Staged

AT_ONCE = 64 * 1024
"""Mails up to this size, in bytes, are sealed and written in one piece."""


class SecretPool:
    """Message secrets that are made in advance, while the worker is idle.

    Each takes 0.7 ms, most of the work of sealing a small mail.  The pool must be made
    after fork(): a copy of it would use the same secrets twice.
    """

    def __init__(self, size: int, curve: Curve) -> None:
        self.size = size
        self._curve = curve
        self._ready: collections.deque[MessageSecret] = collections.deque()

    def take(self) -> MessageSecret | None:
        """A secret from the pool, or None."""
        try:
            return self._ready.popleft()
        except IndexError:
            return None

    @property
    def wanting(self) -> bool:
        """Whether the pool is not full."""
        return len(self._ready) < self.size

    def add_one(self) -> None:
        """Add a secret to the pool."""
        self._ready.append(MessageSecret(self._curve))


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
    """Seal and stage one copy.  `sizes` is delivery.sizes.  Raises errors of maildir.stage()."""
    text = Stored(trace_headers(envelope, recipient), message)
    if message.size <= AT_ONCE:
        sealed = dcrypt.seal(key, b"".join(text), secret=secret)
        staged = maildir.stage(folder, (sealed,))
    else:
        staged = maildir.stage(folder, dcrypt.seal_stream(key, text, secret=secret))
    if sizes != "none":
        staged.sizes = f",S={text.size}" + (f",W={text.with_crlf}" if sizes == "S,W" else "")
    return staged
