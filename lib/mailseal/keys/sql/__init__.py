# SPDX-License-Identifier: MIT
"""Keyrings and public keys in PostgreSQL or MariaDB (docs/several-hosts.md)."""
