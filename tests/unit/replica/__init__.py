# SPDX-License-Identifier: MIT
"""A replica of the public keys: its lease, and when all hosts have a change."""
