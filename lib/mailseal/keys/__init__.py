# SPDX-License-Identifier: MIT
"""Keys of users: keyrings with slots, their store, and the public keys for delivery."""
