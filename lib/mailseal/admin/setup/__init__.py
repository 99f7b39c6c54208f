# SPDX-License-Identifier: MIT
"""`mailseal setup`: sets mailseal up on a running Postfix and Dovecot, and undoes it.

stack.py finds what the server uses, plan.py decides what to change, changes.py changes files so
that they can be changed back at any time, and flow.py does all steps.
"""
