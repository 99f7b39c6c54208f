# SPDX-License-Identifier: MIT
"""Sealing: Dovecot's stream format, key pairs, password hashing.  Knows no users and no mail."""
