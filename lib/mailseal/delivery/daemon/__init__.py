# SPDX-License-Identifier: MIT
"""The processes of mailseal-lmtp: supervisor, workers, their connections and memory."""
