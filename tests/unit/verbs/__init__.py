# SPDX-License-Identifier: MIT
"""The verbs of mailseal-agent, without the process."""
