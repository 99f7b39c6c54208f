# SPDX-License-Identifier: MIT
"""The second part of a password change: the hash in the site's user database."""
