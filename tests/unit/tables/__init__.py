# SPDX-License-Identifier: MIT
"""The tables of a database: made, upgraded, and refused if they are of another version."""
