# SPDX-License-Identifier: MIT
"""What the postmaster types."""
