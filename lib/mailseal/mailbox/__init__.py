# SPDX-License-Identifier: MIT
"""Mail stores: names, durable delivery, walking."""
