# SPDX-License-Identifier: MIT
"""The pages, by topic."""
