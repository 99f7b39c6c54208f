# SPDX-License-Identifier: MIT
"""Tests of the delivery door against a running mailseal-lmtp."""
