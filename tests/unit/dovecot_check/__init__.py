# SPDX-License-Identifier: MIT
"""What check-config says about the settings of Dovecot."""
