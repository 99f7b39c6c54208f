# SPDX-License-Identifier: MIT
"""A private Postfix, Dovecot and mailseal: see tests.lab.lab."""

from tests.lab.imap import Imap, Pop3, Refused
from tests.lab.lab import ALICE, BOB, Lab
from tests.lab.place import LabError

__all__ = ["ALICE", "BOB", "Imap", "Lab", "LabError", "Pop3", "Refused"]
