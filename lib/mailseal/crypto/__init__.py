# SPDX-License-Identifier: MIT
"""Cryptography: Dovecot's stream format, key pairs, password hashing."""
