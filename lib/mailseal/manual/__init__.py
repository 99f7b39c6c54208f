# SPDX-License-Identifier: MIT
"""Manual pages and shell completion, made from the programs' own texts when they are installed."""
