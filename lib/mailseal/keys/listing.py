# SPDX-License-Identifier: MIT
"""Which users have a file in a folder of keyrings or public keys.

The names come from the names of the files: 1,000,000 of them take about three seconds, and reading
the files a minute.
"""

from __future__ import annotations

import contextlib
import os

from mailseal import durable
from mailseal.errors import BadUserName, Damaged
from mailseal.keys import record
from mailseal.keys.names import file_name, user_of_file

END = ".json"


def users(folder: str) -> list[str]:
    """Every user with a file, damaged or not, sorted.

    If the user name is too long for a file name, it is only in the file: if that is damaged,
    the user is missing here.
    """
    with durable.reporting(f"cannot list {folder}"):
        entries = os.listdir(folder)
    names = [entry.removesuffix(END) for entry in entries if entry.endswith(END)]
    found = (user_of_file(name) or _user_inside(folder, name) for name in names)
    return sorted(user for user in found if user is not None)


def _user_inside(folder: str, name: str) -> str | None:
    with contextlib.suppress(Damaged, OSError, KeyError, TypeError, BadUserName):
        with open(os.path.join(folder, f"{name}{END}"), "rb") as stream:
            user = record.parse(stream.read())["user"]
        return str(user) if file_name(user) == name else None
    return None
