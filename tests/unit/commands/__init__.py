# SPDX-License-Identifier: MIT
"""The mailseal command with a real agent, as people and panels use it."""
