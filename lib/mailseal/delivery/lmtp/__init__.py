# SPDX-License-Identifier: MIT
"""The LMTP protocol, without any I/O."""
