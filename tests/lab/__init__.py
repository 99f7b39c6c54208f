# SPDX-License-Identifier: MIT
"""Real Postfix, real Dovecot and mailseal, privately: see tests.lab.lab."""

from tests.lab.imap import Imap, Pop3, Refused
from tests.lab.lab import ALICE, BOB, Lab
from tests.lab.place import LabError

__all__ = ["ALICE", "BOB", "Imap", "Lab", "LabError", "Pop3", "Refused"]
