# SPDX-License-Identifier: MIT
"""Dovecot's index of each enrolled user: in an encrypted folder, or in memory."""
