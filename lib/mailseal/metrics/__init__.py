# SPDX-License-Identifier: MIT
"""Metrics: the daemons count in small files in memory, and mailseal-metrics serves the sums."""
