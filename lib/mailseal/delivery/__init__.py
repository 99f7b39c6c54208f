# SPDX-License-Identifier: MIT
"""Delivery: receives mail and seals it with public keys; it has no private keys."""
