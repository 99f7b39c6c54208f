# SPDX-License-Identifier: MIT
"""The other half of a password change: the hash in the site's own user database."""
