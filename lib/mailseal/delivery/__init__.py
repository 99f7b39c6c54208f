# SPDX-License-Identifier: MIT
"""The delivery door: takes mail, seals it with public keys, knows no private ones."""
