# SPDX-License-Identifier: MIT
"""The pages, by what users do on them."""
