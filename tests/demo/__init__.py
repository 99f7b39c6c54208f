# SPDX-License-Identifier: MIT
"""`make demo`."""
