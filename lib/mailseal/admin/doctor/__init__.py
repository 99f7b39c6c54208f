# SPDX-License-Identifier: MIT
"""mailseal doctor: checks a running mail server, and proves that it seals mail."""
