# SPDX-License-Identifier: MIT
"""Derives keys from passwords: Argon2id (RFC 9106) with named profiles.

Profiles are used for new slots only.  Each slot stores its parameters, so existing
slots still open if a profile changes.
"""

from __future__ import annotations

import dataclasses

from mailseal.errors import Damaged, TemporaryError

VERSION = 0x13
SALT_SIZE = 16

# Limits for stored parameters: a forged keyring must not make the agent use all memory of the
# machine.
MAX_MEMORY_KIB = 1 << 21
MAX_PASSES = 64
MAX_LANES = 64


@dataclasses.dataclass(frozen=True)
class Profile:
    """Cost of one derivation: memory in KiB, passes, lanes."""

    name: str
    memory_kib: int
    passes: int
    lanes: int

    def __post_init__(self) -> None:
        """Raise Damaged if Argon2id or this machine does not permit these parameters."""
        if not (
            1 <= self.lanes <= MAX_LANES
            and 1 <= self.passes <= MAX_PASSES
            and 8 * self.lanes <= self.memory_kib <= MAX_MEMORY_KIB
        ):
            raise Damaged("Argon2id parameters are out of range")


PROFILES = {
    profile.name: profile
    for profile in (
        # The second recommended option of RFC 9106, section 4.  Took 0.1 s on 2 cores.
        Profile("standard", 64 * 1024, 3, 4),
        # For small machines: the minimum of OWASP's cheat sheet.
        Profile("low-memory", 19 * 1024, 2, 1),
        Profile("high-memory", 256 * 1024, 3, 4),
        # As fast as possible.  Gives no protection.
        Profile("insecure-testing", 8, 1, 1),
    )
}


def derive(password: bytes, salt: bytes, profile: Profile, size: int) -> bytes:
    """Derive `size` bytes from a password.  Releases the GIL; needs profile.memory_kib of memory.

    Raises TemporaryError if this memory is not available.
    """
    from argon2.exceptions import HashingError
    from argon2.low_level import Type, hash_secret_raw

    try:
        return hash_secret_raw(
            secret=password,
            salt=salt,
            time_cost=profile.passes,
            memory_cost=profile.memory_kib,
            parallelism=profile.lanes,
            hash_len=size,
            type=Type.ID,
            version=VERSION,
        )
    except (HashingError, MemoryError):
        raise TemporaryError("Argon2id failed: not enough memory?") from None
