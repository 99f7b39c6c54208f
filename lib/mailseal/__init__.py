# SPDX-License-Identifier: MIT
"""mailseal: mail sealed at rest, for the Postfix and Dovecot you already run."""

__version__ = "0.1.0"
