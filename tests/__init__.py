# SPDX-License-Identifier: MIT
"""Tests of mailseal, and the lab they run in."""
