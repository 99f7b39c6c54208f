# SPDX-License-Identifier: MIT
"""Login: opens keyrings with passwords, and never reads mail."""
