# SPDX-License-Identifier: MIT
"""End to end, with real Postfix and real Dovecot."""
