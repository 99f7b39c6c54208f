# SPDX-License-Identifier: MIT
"""Requests to Dovecot: user database, quota, and delivery with its LMTP server."""
