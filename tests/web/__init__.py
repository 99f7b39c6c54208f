# SPDX-License-Identifier: MIT
"""The page for users: the agent's verbs, the program, and a real browser."""
