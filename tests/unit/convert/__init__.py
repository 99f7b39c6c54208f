# SPDX-License-Identifier: MIT
"""Stored mail is converted while clients use the mailbox, and while failures happen.

After any event before or after any system call, the mailbox contains each mail once, with
the right bytes, and the next run completes the work.
"""
