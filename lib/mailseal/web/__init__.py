# SPDX-License-Identifier: MIT
"""mailseal-web: the web page on which users manage their own keys, and its JSON API."""
