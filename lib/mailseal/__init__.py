# SPDX-License-Identifier: MIT
"""mailseal: encrypts stored mail with each user's own key, on an existing Postfix and Dovecot."""

__version__ = "0.1.0"
