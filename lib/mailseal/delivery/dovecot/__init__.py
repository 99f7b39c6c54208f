# SPDX-License-Identifier: MIT
"""What is asked of Dovecot: user database, quota, and delivery by its LMTP."""
