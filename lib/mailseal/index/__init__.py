# SPDX-License-Identifier: MIT
"""Dovecot's index of each enrolled user, in a folder that only this user's key opens."""
