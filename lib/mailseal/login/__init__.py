# SPDX-License-Identifier: MIT
"""The login door: opens keyrings with passwords, never touches mail."""
