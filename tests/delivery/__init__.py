# SPDX-License-Identifier: MIT
"""Tests of delivery against a running mailseal-lmtp."""
