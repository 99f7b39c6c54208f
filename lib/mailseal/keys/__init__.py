# SPDX-License-Identifier: MIT
"""Whose keys: keyrings with slots, where they are kept, and public keys for the delivery door."""
