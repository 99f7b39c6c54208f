# SPDX-License-Identifier: MIT
"""Tests with a real Postfix and Dovecot."""
