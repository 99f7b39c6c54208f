# SPDX-License-Identifier: MIT
"""Derives keys from passwords: Argon2id (RFC 9106) with named profiles.

Profiles are used for new slots only.  The numbers are stored beside each
wrapped key, so that a profile can change without locking anybody out.
"""

from __future__ import annotations

import dataclasses

from mailseal.errors import Damaged, TemporaryError

VERSION = 0x13
SALT_SIZE = 16

# What a stored file may ask for.  A planted keyring must not be able to make
# the agent take all memory of the machine.
MAX_MEMORY_KIB = 1 << 21
MAX_PASSES = 64
MAX_LANES = 64


@dataclasses.dataclass(frozen=True)
class Profile:
    """Cost of one derivation: memory in KiB, passes over it, lanes."""

    name: str
    memory_kib: int
    passes: int
    lanes: int

    def __post_init__(self) -> None:
        """Raise Damaged for numbers outside what Argon2id and this machine allow."""
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
        # For small machines: the minimum that OWASP's cheat sheet names.
        Profile("low-memory", 19 * 1024, 2, 1),
        Profile("high-memory", 256 * 1024, 3, 4),
        # As cheap as it gets.  Protects nothing.
        Profile("insecure-testing", 8, 1, 1),
    )
}


def derive(password: bytes, salt: bytes, profile: Profile, size: int) -> bytes:
    """`size` bytes from a password.  Releases the GIL; takes profile.memory_kib of memory.

    Raises TemporaryError when that memory cannot be had.
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
