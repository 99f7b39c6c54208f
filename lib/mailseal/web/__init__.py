# SPDX-License-Identifier: MIT
"""mailseal-web: the page on which users do things for themselves, and its JSON API."""
